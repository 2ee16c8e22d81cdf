"""`jaxdissect prepare` and `jaxdissect verify`: decode a task's clips once, and check the files that were made."""

import shlex
from collections.abc import Iterator

from jaxdissect.commands.outcome import Outcome, bad_clips
from jaxdissect.options.prepare import PrepareOptions, VerifyOptions
from jaxdissect.stages.prepare import run_prepare, verify
from jaxdissect.types import Record


def run(options: PrepareOptions) -> Iterator[Outcome]:
    """Decode clips into shards.

    Args:
      options: options of the command.
    """
    prepared, out = run_prepare(options), options.out
    results = {
        "clips": prepared.clips,
        "unreadable_clips": prepared.unreadable,
        "shards": prepared.shards,
        "size_bytes": prepared.size,
        "decoded_now_clips": prepared.made,
        "complete": prepared.complete,
        "read_by": prepared.reading,
        "seconds": prepared.seconds,
    }
    # A shard with unreadable clips is finished; only without its list is it decoded again.
    retry = f"to try them again, remove the {out}/shard-*.json that list them and repeat this."
    yield Outcome(
        stage="prepare",
        results=results,
        summary=prepare_summary(results),
        warnings=[f"{prepared.unreadable:,} clips are unreadable: {retry}"] if prepared.unreadable else [],
        files=(out,),
        failure=bad_clips(prepared, f"everything else was prepared. See {out}/shard-*.json."),
    )


def prepare_summary(results: Record) -> str:
    """What was prepared, how large it is and how fast it was made.

    Args:
      results: JSON object of the stage `prepare`.
    """
    decoded, seconds, shards = results["decoded_now_clips"], results["seconds"], results["shards"]
    rate = f", {decoded / seconds:,.1f} clips/s" if decoded else ""
    done = (
        f"{results['clips']:,} clips, {results['unreadable_clips']:,} unreadable; {shards} shard{'s' * (shards != 1)}, "
        f"{results['size_bytes'] / 1e6:,.1f} MB; {decoded:,} decoded now in {seconds:,.1f} s{rate}."
    )
    if results["complete"]:
        return f"{done}\nComplete. The other commands read it by: {shlex.join(results['read_by'])}"
    return f"{done}\nNot complete yet: repeat the command without --part when the other parts are done."


def run_verify(options: VerifyOptions) -> Iterator[Outcome]:
    """Compare files with the hashes that were recorded when they were written.

    Args:
      options: options of the command.
    """
    faults = verify(options.folder)
    verdict = f"{options.folder}: {len(faults) or 'no'} file{'s' * (len(faults) != 1)} not as written."
    yield Outcome(
        stage="verify",
        results={"not_as_written": faults},
        summary="" if faults else verdict,
        warnings=faults,
        failure=verdict if faults else None,
    )
