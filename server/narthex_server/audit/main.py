"""`narthex audit`: looks at a record, whether it is whole, and what it holds."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import orjson
from narthex.settings import SettingsError, config_file, load

from narthex_server.audit.chain import Chain, Head
from narthex_server.audit.encoding import stamp
from narthex_server.audit.file import AuditFile, FileFailed, Stored, begun
from narthex_server.audit.verification import Verification
from narthex_server.config.server import ServerConfig

OK, BROKEN, USAGE = 0, 1, 2
FIELDS = ("kind", "tenant", "key", "server", "name", "outcome", "request", "trace")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Record = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 where the record is not whole."""
    arguments = _parser().parse_args(argv)
    try:
        config = load(ServerConfig, "server", {}, file=config_file(arguments.config))
        folder: Path = arguments.path or config.audit.path
        keys: list[Path] = arguments.key_file or ([config.audit.key_file] if config.audit.key_file else [])
        return _COMMANDS[arguments.action](arguments, folder, keys)
    except (SettingsError, FileFailed) as error:
        print(f"narthex audit: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        sys.stderr.close()  # else Python complains that it cannot flush
        return OK


def _verify(arguments: argparse.Namespace, folder: Path, keys: Sequence[Path]) -> int:
    chains = {chain.key_id: chain for chain in (Chain(), *map(Chain.of_file, keys))}
    verdict = Verification(chains, arguments.anchor or ()).run(folder)
    if verdict.fault is not None:
        print(f"not whole: {verdict.fault}")
        return BROKEN
    print(f"whole: records {verdict.first} to {verdict.head.seq}, head {verdict.head}")
    return OK


def _anchor(arguments: argparse.Namespace, folder: Path, keys: Sequence[Path]) -> int:
    file = AuditFile.open(_files(folder)[-1])
    try:
        print(file.part().head)
    finally:
        file.close()
    return OK


def _show(arguments: argparse.Namespace, folder: Path, keys: Sequence[Path]) -> int:
    found = list(_chosen(arguments, folder))
    for stored, record in found[-arguments.last :]:
        what = record.get("verb") or record.get("name") or record.get("asked") or ""
        about = [
            record.get("subject", ""),
            record.get("reason", ""),
            f"trace={record['trace']}" if "trace" in record else "",
        ]
        whose = f"{record.get('tenant', '')}/{record.get('key', '')}"
        took = f"{record['ms']:.1f} ms" if "ms" in record else ""
        cells = (stored.seq, record.get("at", ""), whose, record["kind"], what, record.get("outcome", ""), took)
        print("\t".join(map(_printable, (*cells, " ".join(filter(None, about))))))
    return OK


def _export(arguments: argparse.Namespace, folder: Path, keys: Sequence[Path]) -> int:
    for stored, record in _chosen(arguments, folder):
        line = orjson.dumps({"seq": stored.seq, **record, "hash": stored.hash.hex()})
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()
    return OK


_COMMANDS: Mapping[str, Callable[[argparse.Namespace, Path, Sequence[Path]], int]] = {
    "verify": _verify,
    "anchor": _anchor,
    "show": _show,
    "export": _export,
}


def _chosen(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Stored, Record]]:
    """The records that pass the filters, in order."""
    wanted = {field: getattr(arguments, field) for field in FIELDS if getattr(arguments, field)}
    since, until = arguments.since or "", arguments.until or "~"
    for path in _files(folder):
        file = AuditFile.open(path)
        try:
            for stored in file.records(arguments.after):
                try:
                    record: Record = orjson.loads(stored.body)
                except ValueError:
                    record = {"kind": "unreadable"}  # which `verify` says more of
                at = str(record.get("at", ""))
                if since <= at <= until and all(fnmatchcase(str(record.get(f, "")), g) for f, g in wanted.items()):
                    yield stored, record
        finally:
            file.close()


def _files(folder: Path) -> list[Path]:
    found = begun(folder) if folder.is_dir() else [folder]
    if not found:
        raise FileFailed(f"{folder} holds no audit files")
    return found


def _printable(cell: object) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(cell))


def _time(text: str) -> str:
    """A date, a time, or how long ago (30m, 12h, 7d), as records write it. Raises ValueError."""
    if text[:-1].isdecimal() and text[-1:] in _UNITS:
        ago = timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
        return stamp((datetime.now(UTC) - ago).timestamp())
    at = datetime.fromisoformat(text)
    return stamp((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="narthex audit", description=__doc__.partition(": ")[2], allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    made = {
        name: actions.add_parser(name, help=help, allow_abbrev=False)
        for name, help in (
            ("verify", "whether the record is whole; exits with 1 where it is not"),
            ("anchor", "print its head, SEQ:HASH, to be kept elsewhere for `verify --anchor`"),
            ("show", "the last records, as a table"),
            ("export", "all records, as JSON Lines"),
        )
    }
    for action in made.values():
        action.add_argument("path", nargs="?", type=Path, help="the folder of a record, or one file of it")
        action.add_argument("--config", type=Path, metavar="FILE", help="a narthex.toml (or NARTHEX_CONFIG)")
        action.add_argument("--key-file", type=Path, action="append", metavar="FILE", help="its key; repeatable")
    made["verify"].add_argument(
        "--anchor", type=Head.parse, action="append", metavar="SEQ:HASH", help="what `anchor` printed; repeatable"
    )
    made["show"].add_argument("--last", type=int, default=50, metavar="N", help="how many (default: %(default)s)")
    for name in ("show", "export"):
        for field in FIELDS:
            made[name].add_argument(f"--{field}", metavar="GLOB", help=f"only where `{field}` is like this")
        made[name].add_argument("--since", type=_time, metavar="WHEN", help="a date, a time, or how long ago: 12h, 7d")
        made[name].add_argument("--until", type=_time, metavar="WHEN", help="likewise")
        made[name].add_argument("--after", type=int, default=0, metavar="SEQ", help="only after this record")
    return parser


if __name__ == "__main__":
    sys.exit(main())
