"""The peers of the comparison, each set up as its own maintainers recommend for fresh CI pods."""
