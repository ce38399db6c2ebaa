#include <stdio.h>

static const int revision = 0;

int main(void)
{
	return printf("revision %d\n", revision) < 0;
}
