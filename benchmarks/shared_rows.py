"""How much of a run's decoding is the same text twice: counted from its stored rollouts, whatever the machine.

    python benchmarks/shared_rows.py RUN_DIRECTORY...

A token is drawn from what precedes it, which the decoder has to read. `rows`: one reading per sampled token but
the first of a response, as a decoder that keeps samples apart reads them. `distinct`: each (prompt, tokens so far)
once a step, as the torch sampler reads them. `prompt_tokens` and `distinct_prompt_tokens`: the same of prompts, each
read once, and with what all prompts of a step begin with read once for all. Writes
benchmarks/results/shared_rows.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from thinkrl.rollouts.store import Rollouts
from thinkrl.tracking.provenance import git_state
from thinkrl.tracking.rollout_files import read_rollouts


def counted(rollouts: Rollouts) -> dict[str, int]:
    """The four counts of one step."""
    beginnings: set[tuple[int, tuple[int, ...]]] = set()
    rows = 0
    for group, tokens in zip(rollouts.group_index.tolist(), rollouts.token_ids, strict=True):
        rows += max(len(tokens) - 1, 0)
        beginnings |= {(group, tuple(tokens[:length].tolist())) for length in range(1, len(tokens))}
    prompts = [group.prompt_ids.tolist() for group in rollouts.groups]
    total = sum(map(len, prompts))
    return {
        "rows": rows,
        "distinct": len(beginnings),
        "prompt_tokens": total,
        "distinct_prompt_tokens": total - (len(prompts) - 1) * _common(prompts),
    }


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, one less than the shortest at most."""
    longest = min(map(len, prompts)) - 1
    return next((i for i in range(longest) if len({prompt[i] for prompt in prompts}) > 1), longest)


def main(runs: Sequence[Path]) -> None:
    """Adds up every stage that stored rollouts."""
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        for folder in sorted(run.glob("stages/*/rollouts")):
            total = found.setdefault(folder.parent.name, {"runs": 0, "steps": 0})
            total["runs"] += 1
            for path in sorted(folder.glob("*.parquet")):
                total["steps"] += 1
                for name, count in counted(read_rollouts(path).rollouts).items():
                    total[name] = total.get(name, 0) + count
    for total in found.values():
        before, after = total["rows"] + total["prompt_tokens"], total["distinct"] + total["distinct_prompt_tokens"]
        total["times_less_is_read"] = before / after
    what = "tokens read to decode the stored rollouts of runs, each sample on its own and each text once"
    target = Path(__file__).parent / "results" / "shared_rows.json"
    target.write_text(json.dumps({"what": what, "stages": found, "git": git_state()}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    main(parser.parse_args().runs)
