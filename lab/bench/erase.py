"""Erased and kept for any concept that the playground draws: `python run.py bench erase --erase "ink style"`.

Draws as many pictures of the concept's own prompt as asked for, and about as many of the others, before and after.
"""

from __future__ import annotations

import argparse

from _playground_run import SIZE, Playground, as_json, short, write_json


def main() -> None:
    """Erase, draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--erase", default="cat", metavar="CONCEPT")
    parser.add_argument("--method", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    bench = Playground(picture_steps=20)
    from esd_pack.commands.playground import world
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings

    subject = world.find_subject(options.erase)
    settings = Settings(seed=options.seed, **SIZE, **({"method": options.method} if options.method else {}))
    erased, seconds = bench.erase([make_concept(subject.prompt)], [], settings)
    rates = bench.rates(
        erased.model,
        {
            "erased": world.prompts_for(subject, options.pictures),
            "kept": world.prompts_for_others(subject, max(1, round(options.pictures / len(world.OBJECTS)))),
        },
    )
    print(f"{subject.prompt}: {seconds:.0f} s of training with {settings.method}, seed {settings.seed}")
    for name, rate in rates.items():
        print(f"  {name}: {short(rate)}")
    write_json(options.json, [{"concept": subject.prompt, "seconds": seconds, **as_json(rates)}])


if __name__ == "__main__":
    main()
