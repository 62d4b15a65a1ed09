"""Where groups go: to the engine that owes the fewest tokens, as late as possible."""

import random

from hypothesis import given
from hypothesis import strategies as st

from coop_rl.driver.router import Router, Work


def test_a_group_goes_to_the_engine_that_owes_the_fewest_tokens() -> None:
    router: Router[str] = Router(range(3), max_sequences=100)
    for name, tokens in (("a", 50), ("b", 10), ("c", 30), ("d", 5), ("e", 5), ("f", 40)):
        router.add(Work(name, 1, tokens))
    # a, b, c go to empty engines; d to the one with 10, e to the one with 15, f to that with 20.
    assert [(engine, work.item) for engine, work in router.start()] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
        (1, "d"),
        (1, "e"),
        (1, "f"),
    ]
    # Now they owe 50, 60 and 30.
    for name in ("g", "h", "i"):
        router.add(Work(name, 1, 15))
    assert [engine for engine, _ in router.start()] == [2, 2, 0]


def test_groups_wait_for_room_and_a_long_one_holds_up_its_own_engine_only() -> None:
    router: Router[int] = Router(range(2), max_sequences=4)
    works = [Work(i, 2, 10) for i in range(20)]
    for work in works:
        router.add(work)
    started = list(router.start())
    assert len(started) == 6  # 4 and half as many more, of 2 each, on two engines
    ended = next(entry for entry in started if entry[0] == 1)
    for _ in range(14):  # engine 0 hangs, the rest goes through engine 1
        router.finish(*ended)
        (ended,) = router.start()
        assert ended[0] == 1
    router.finish(*ended)
    assert list(router.start()) == []


def test_a_closed_engine_keeps_what_it_has_and_gets_no_more() -> None:
    router: Router[str] = Router(range(2), max_sequences=1)
    for name in "abcd":
        router.add(Work(name, 1, 10))
    held = {work.item: (engine, work) for engine, work in router.start()}
    assert {name: engine for name, (engine, _) in held.items()} == {"a": 0, "b": 1, "c": 0, "d": 1}
    router.add(Work("e", 1, 10))
    assert not router.close(0)
    router.finish(*held["a"])
    assert list(router.start()) == []
    router.finish(*held["b"])
    assert [(engine, work.item) for engine, work in router.start()] == [(1, "e")]
    router.finish(*held["c"])
    assert router.close(0)
    assert router.remove(0) == []


def test_a_group_larger_than_an_engine_still_gets_one() -> None:
    router: Router[str] = Router(range(1), max_sequences=1)
    router.add(Work("large", 64, 1000))
    assert [work.item for _, work in router.start()] == ["large"]


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32))
def test_every_group_runs_once_engines_hold_a_bounded_amount_and_none_idles(
    num_engines: int, max_sequences: int, seed: int
) -> None:
    source = random.Random(seed)
    router: Router[int] = Router(range(num_engines), max_sequences)
    for item in range(60):
        router.add(Work(item, source.randint(1, 4), source.randint(1, 100)))
    held: dict[int, dict[int, Work[int]]] = {engine: {} for engine in range(num_engines)}
    seen: list[int] = []

    def tokens(engine: int) -> int:
        return sum(work.tokens for work in held[engine].values())

    def sequences(engine: int) -> int:
        return sum(work.sequences for work in held[engine].values())

    while len(seen) < 60 or any(held.values()):
        for engine, work in router.start():
            others = [e for e in held if e != engine and sequences(e) < max_sequences]
            assert all(tokens(engine) <= tokens(other) for other in others)
            held[engine][work.item] = work
            seen.append(work.item)
        for engine in held:
            assert sequences(engine) < max_sequences + max(1, max_sequences // 2) + 4
            assert sequences(engine) >= max_sequences or len(seen) == 60
        engine = source.choice([engine for engine, works in held.items() if works])
        router.finish(engine, held[engine].pop(source.choice(list(held[engine]))))
    assert seen == list(range(60))


@given(st.integers(1, 4), st.integers(0, 2**32))
def test_what_lost_engines_had_waits_in_its_old_place_and_runs_once_in_the_end(
    num_engines: int, seed: int
) -> None:
    source = random.Random(seed)
    router: Router[int] = Router(range(num_engines), max_sequences=3)
    works = [Work(item, source.randint(1, 3), source.randint(1, 100)) for item in range(30)]
    for work in works:
        router.add(work)
    held: dict[int, list[Work[int]]] = {engine: [] for engine in range(num_engines)}
    next_engine, ended, begun = num_engines, list[int](), list[int]()
    while len(ended) < len(works):
        newly = list(router.start())
        assert [work.item for _, work in newly] == sorted(work.item for _, work in newly)
        for engine, work in newly:
            held[engine].append(work)
            begun.append(work.item)
        event = source.choice(("end", "end", "end", "lose", "join"))
        if event == "join" or not held:
            router.add_engine(next_engine)
            held[next_engine] = []
            next_engine += 1
        elif event == "lose":
            engine = source.choice(list(held))
            returned = router.remove(engine)
            assert [work.item for work in returned] == sorted(w.item for w in held.pop(engine))
        elif busy := [engine for engine, works_ in held.items() if works_]:
            engine = source.choice(busy)
            work = held[engine].pop(source.randrange(len(held[engine])))
            router.finish(engine, work)
            ended.append(work.item)
    assert sorted(ended) == list(range(30))
    assert set(begun) == set(ended)
