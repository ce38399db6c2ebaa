#include "revision.h"

#include <stdio.h>

int main(void)
{
    printf("large revision=%d\n", REVISION);
    return 0;
}
