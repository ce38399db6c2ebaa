"""The sample project's program. Its one line of output says which parts of the image work."""

import subprocess

import matplotlib as mpl
import pandas as pd
from scipy import integrate

LIMIT = 1_000_000


def main() -> None:
    summed = subprocess.run(["prime-sum", str(LIMIT)], check=True, capture_output=True, text=True)
    primes, revision = map(int, summed.stdout.split())
    squares = int(pd.Series(range(100)).pow(2).sum())
    area, _ = integrate.quad(lambda x: 3 * x**2, 0, 10)
    mpl.use("Agg")
    print(f"sample revision={revision} primes={primes} squares={squares} area={area:.3f}")


if __name__ == "__main__":
    main()
