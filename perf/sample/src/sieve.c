#include "sieve.h"

#include <stdlib.h>

int64_t prime_sum(uint32_t limit)
{
    if (limit < 3)
        return 0;
    unsigned char *composite = calloc(limit, 1);
    if (composite == NULL)
        return -1;
    int64_t sum = 0;
    for (uint32_t n = 2; n < limit; n++) {
        if (composite[n])
            continue;
        sum += n;
        for (uint64_t multiple = (uint64_t)n * n; multiple < limit; multiple += n)
            composite[multiple] = 1;
    }
    free(composite);
    return sum;
}
