#include "sieve.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* The benchmark changes this one value: a one-line change of the source. */
static const int revision = 0;

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: prime-sum LIMIT\n");
        return 2;
    }
    char *end;
    unsigned long limit = strtoul(argv[1], &end, 10);
    if (*end != '\0' || limit > UINT32_MAX) {
        fprintf(stderr, "prime-sum: LIMIT must be a number below 2^32, not %s\n", argv[1]);
        return 2;
    }
    int64_t sum = prime_sum((uint32_t)limit);
    if (sum < 0) {
        fprintf(stderr, "prime-sum: out of memory\n");
        return 1;
    }
    printf("%" PRId64 " %d\n", sum, revision);
    return 0;
}
