from narthex_server.lot.estimate import FIRST, Estimate


def test_nothing_is_known_at_first_and_no_more_is_guessed_than_there_may_be():
    assert (Estimate().within(1000), Estimate().within(10), Estimate(0).within(0)) == (FIRST, 10, 1)


def test_it_follows_what_was_taken():
    estimate = Estimate()
    for _ in range(100):
        estimate.learn(20, cut=False)
    assert 20 <= estimate.within(1000) <= 25
    for _ in range(100):
        estimate.learn(500, cut=False)
    assert 490 <= estimate.within(1000) <= 600


def test_where_they_differ_it_is_above_the_mean():
    estimate = Estimate()
    for turn in range(200):
        estimate.learn(100 if turn % 2 else 300, cut=False)
    assert 250 <= estimate.within(1000) <= 330


def test_what_was_cut_off_early_tells_nothing():
    estimate = Estimate()
    for _ in range(100):
        estimate.learn(5, cut=True)
    assert estimate.within(1000) == FIRST
    estimate.learn(1000, cut=True)
    assert estimate.within(1000) > FIRST
