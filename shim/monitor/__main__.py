"""`python -I -B -m shim.monitor`, link on fd 3. Starts the keeper first: its loading takes long."""

from __future__ import annotations

from shim.monitor.keeper import Keeper


def main() -> None:
    """Start the keeper, then load and be the rest of the privileged side meanwhile."""
    keeper = Keeper()
    from shim.monitor import process

    process.main(keeper)


if __name__ == "__main__":
    main()
