"""Everything that can be done to a record is found, at the record where it was done."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from narthex_server.audit.chain import Chain, Head
from narthex_server.audit.file import FileFailed, files
from narthex_server.audit.verification import Verification

from tests.unit.audit.conftest import KEY


def verdict(folder, *anchors, key=b""):
    return Verification({chain.key_id: chain for chain in (Chain(), Chain(key))}, anchors).run(folder)


def written(journal, count=20, **settings):
    log = journal(**settings)
    log.append([b'{"n":%d}' % number for number in range(count)])
    head = log.head
    log.close()
    return head


def change(path, *statements):
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize("key", [b"", KEY])
def test_a_record_that_nobody_touched_is_whole(folder, journal, key):
    head = written(journal, key=key)
    assert verdict(folder, head, key=key) == verdict(folder, key=key)
    found = verdict(folder, key=key)
    assert (found.first, found.head, found.fault) == (1, head, None)


@pytest.mark.parametrize("key", [b"", KEY])
@pytest.mark.parametrize(
    ("statements", "seq", "text"),
    [
        (["update records set body = '{}' where seq = 7"], 7, "changed"),
        (["update records set hash = zeroblob(32) where seq = 7"], 7, "changed"),
        (["delete from records where seq = 7"], 7, "missing"),
        (["delete from records where seq = 1"], 1, "missing"),
        (["insert into records values (21, '{}', zeroblob(32))"], 21, "put in"),
        (["update records set seq = 99 where seq = 7", "update records set seq = 7 where seq = 8",
          "update records set seq = 8 where seq = 99"], 7, "moved"),
        (["update records set seq = seq + 100 where seq >= 7", "update records set seq = seq - 99 where seq >= 107",
          "insert into records select 7, body, hash from records where seq = 6"], 7, "put in"),
        (["delete from records where seq > 15"], 16, "cut off"),
        (["delete from records where seq > 15",
          "update part set seq = 15, hash = (select hash from records where seq = 15)"], 15, "seal"),
        (["update part set closed = 1"], 20, "seal"),
    ],
)  # fmt: skip
def test_what_is_done_to_a_file_is_found(folder, journal, statements, seq, text, key):
    written(journal, key=key)
    change(files(folder)[0], *statements)
    fault = verdict(folder, key=key).fault
    assert fault is not None and fault.seq == seq and text in fault.text


@pytest.mark.parametrize(
    ("table", "column", "seq"),
    [("records", "body", 1), ("records", "hash", 1), ("part", "seal", 20), ("part", "hash", 21)],
)
def test_what_lost_its_values_is_found(folder, journal, table, column, seq):
    written(journal)
    names = {"records": "seq, body, hash", "part": "one, key_id, created, before, seq, hash, closed, seal"}[table]
    emptied = names.replace(column, f"null as {column}")
    change(
        files(folder)[0], f"create table other as select {emptied} from {table}", f"drop table {table}",
        f"alter table other rename to {table}",
    )  # fmt: skip
    assert verdict(folder).fault.seq == seq


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_file_that_is_cut_in_the_middle_is_found(folder, journal, share):
    written(journal, 500)
    (path,) = files(folder)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert path.name in verdict(folder).fault.text


def test_where_there_is_no_record_none_is_looked_at(folder):
    for there_is_none in (folder, folder / "000000000001.audit"):
        with pytest.raises(FileFailed, match="no audit files"):
            verdict(there_is_none)


def forged(folder, journal, count):
    """What somebody without the key makes of the record: all hashes anew."""
    shutil.rmtree(folder)
    return written(journal, count)


def test_a_record_made_anew_is_found_by_an_anchor(folder, journal):
    log = journal()
    log.append([b"{}", b"{}", b'{"true":1}'])
    anchor = log.head
    log.close()
    forged(folder, journal, 5)
    assert verdict(folder).fault is None
    assert verdict(folder, anchor).fault.seq == 3


def test_a_record_made_anew_is_found_by_the_key(folder, journal):
    written(journal, key=KEY)
    forged(folder, journal, 20)
    change(files(folder)[0], f"update part set key_id = '{Chain(KEY).key_id}'")
    assert verdict(folder, key=KEY).fault.seq == 1


def test_an_end_that_was_put_back_is_found_by_an_anchor(folder, journal, tmp_path):
    written(journal, 10, key=KEY)
    shutil.copytree(folder, tmp_path / "before")
    anchor = written(journal, 5, key=KEY)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "before", folder)
    assert verdict(folder, key=KEY).fault is None
    fault = verdict(folder, anchor, key=KEY).fault
    assert fault.seq == 11 and "cut off" in fault.text


def test_the_chain_goes_on_over_files(folder, journal):
    log = journal(file_bytes=1)
    for number in range(6):
        log.append([b'{"n":%d}' % number])
    log.close()
    assert [path.name for path in files(folder)] == [f"{n:012d}.audit" for n in range(1, 7)]
    assert verdict(folder).head.seq == 6
    assert verdict(files(folder)[2]).fault is None, "one file alone can be checked"
    files(folder)[3].unlink()
    assert (verdict(folder).fault.seq, "begins with record 5" in verdict(folder).fault.text) == (4, True)


def test_a_first_or_last_file_that_is_gone_is_found(folder, journal):
    log = journal(file_bytes=1)
    for _ in range(3):
        log.append([b"{}"])
    log.close()
    first, _, last = files(folder)
    kept = last.read_bytes()
    last.unlink()
    assert (verdict(folder).fault.seq, "another goes on" in verdict(folder).fault.text) == (3, True)
    last.write_bytes(kept)
    first.unlink()
    assert (verdict(folder).fault.seq, "gone" in verdict(folder).fault.text) == (1, True)


def test_a_last_file_that_is_gone_is_told_in_the_record_that_goes_on(folder, journal):
    log = journal(file_bytes=1)
    log.append([b"{}"])
    log.append([b"{}"])
    log.close()
    files(folder)[-1].unlink()
    journal().close()
    assert verdict(folder).head.seq == 2
    with closing(sqlite3.connect(files(folder)[-1])) as database:
        assert b'"gone"' in database.execute("select body from records").fetchone()[0]


def test_another_key_begins_another_file_and_each_needs_its_own(folder, journal):
    written(journal, 3)
    written(journal, 3, key=KEY)
    assert len(files(folder)) == 2
    assert verdict(folder, key=KEY).head.seq == 6
    fault = Verification({"": Chain()}).run(folder).fault
    assert fault.seq == 4 and Chain(KEY).key_id in fault.text


def test_files_are_deleted_after_their_time_and_the_record_says_so(folder, journal):
    now = [1e9]
    log = journal(clock=lambda: now[0], file_days=1, keep_days=7)
    log.append([b"{}"])
    for _ in range(3):
        now[0] += 90_000
        log.append([b"{}"])
    assert len(files(folder)) == 4
    now[0] = 9e9
    log.append([b"{}"])
    log.close()
    assert [path.name for path in files(folder)] == ["000000000005.audit"]
    found = verdict(folder)
    assert (found.first, found.head.seq, found.fault) == (5, 6, None)


def test_a_file_whose_making_was_cut_short_is_made_again(folder, journal):
    written(journal, 3)
    (folder / "000000000004.audit").touch()
    assert written(journal, 1).seq == 4
    assert verdict(folder).fault is None


def test_an_end_between_two_files_leaves_the_record_whole(folder, journal):
    log = journal()
    log.append([b"{}", b"{}"])
    begun, _ = log._create(log.head)  # and the file before does not say so yet
    begun.close()
    log.close()
    assert verdict(folder).head.seq == 2
    assert written(journal, 1).seq == 3
    assert (len(files(folder)), verdict(folder).fault) == (2, None)


def test_a_new_file_that_cannot_be_begun_is_begun_when_it_can(folder, journal):
    log = journal(file_bytes=1)
    log.append([b"{}"])
    with closing(sqlite3.connect(files(folder)[0], isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(FileFailed, match="locked"):
            log.append([b"{}"])
        assert len(files(folder)) == 1
        other.execute("rollback")
    log.append([b"{}"])
    log.close()
    assert (len(files(folder)), verdict(folder).head.seq, verdict(folder).fault) == (2, 2, None)


def test_a_full_disk_leaves_nothing_of_what_did_not_fit(folder, journal):
    log = journal()
    log.append([b"{}"])
    (pages,) = log._file._database.execute("pragma page_count").fetchone()
    log._file._database.execute(f"pragma max_page_count = {pages + 1}").fetchone()
    with pytest.raises(FileFailed, match="full"):
        log.append([b"x" * 1000] * 100)
    log.append([b"{}"])
    log.close()
    assert (verdict(folder).head.seq, verdict(folder).fault) == (2, None)


def test_a_file_that_is_taken_away_is_missed_at_once(folder, journal):
    log = journal()
    log.append([b"{}"])
    files(folder)[0].unlink()
    with pytest.raises(FileFailed, match="is gone"):
        log.append([b"{}"])


def test_a_folder_belongs_to_one_writer(journal):
    journal()
    with pytest.raises(FileFailed, match="another process"):
        journal()


def test_a_folder_that_cannot_be_written_is_told(folder, journal):
    (folder / "lock").mkdir(parents=True)
    with pytest.raises(FileFailed, match="cannot be written"):
        journal()


def test_others_cannot_read_it(folder, journal):
    written(journal)
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in files(folder))


def test_anchors_are_read_as_they_are_written(folder, journal):
    head = written(journal)
    assert Head.parse(str(head)) == head
    for text in ("", "1", "x:00", "1:00", "1:" + "g" * 64):
        with pytest.raises(ValueError):
            Head.parse(text)
