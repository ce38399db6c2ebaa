#ifndef SIEVE_H
#define SIEVE_H

#include <stdint.h>

/* Adds up the primes below limit; -1 when there is no memory for the sieve. */
int64_t prime_sum(uint32_t limit);

#endif
