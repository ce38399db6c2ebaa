#define REVISION 0
