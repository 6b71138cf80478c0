from narthex.bm25 import Index, terms, weighed


def index_of(**documents: str) -> Index[str]:
    index: Index[str] = Index()
    for key, text in documents.items():
        index.put(key, weighed([(text, 1)]))
    return index


def test_words_are_compared_without_case_endings_and_humps():
    assert list(terms("readFiles HTTPServer2 snake_case")) == ["read", "file", "http", "server", "2", "snak", "case"]
    for words in ("create creates created creating", "query queries", "search searches searching", "stop stopped"):
        assert len(set(terms(words))) == 1, words
    assert len(set(terms("bus status news"))) == 3


def test_scripts_without_spaces_are_found_by_pairs():
    index = index_of(a="東京都の天気", b="大阪の電車")
    assert index.search("天気", 5) == ["a"]


def test_rare_words_and_short_documents_win():
    index = index_of(
        long="weather " + "and other words " * 30, short="weather report", other="report of other words", none="nothing"
    )
    assert index.search("weather", 5) == ["short", "long"]
    assert index.search("weather report", 1) == ["short"]
    assert index.search("zebra", 5) == [] and index.search("", 5) == [] and index.search("?!", 5) == []


def test_equal_documents_come_in_their_order():
    index = index_of(b="same text", a="same text", c="same text")
    assert index.search("text", 2) == ["b", "a"]


def test_an_unknown_word_stands_for_those_that_it_begins():
    index = index_of(a="repository of code", b="report")
    assert index.search("repo", 5) == ["b", "a"] or index.search("repo", 5) == ["a", "b"]
    assert index.search("repos", 5) == index.search("repo", 5)


def test_documents_are_replaced_and_removed_without_a_trace():
    index = index_of(a="alpha beta", b="beta gamma")
    index.put("a", weighed([("delta", 1)]))
    assert index.search("alpha", 5) == [] and index.search("delta", 5) == ["a"]
    index.drop("a")
    index.drop("a")
    index.drop("b")
    assert len(index) == 0 and index.search("beta", 5) == []
    assert not index._postings and index._length == 0


def test_only_those_that_are_asked_for_are_found():
    index = index_of(a="text", b="text", c="text")
    assert index.search("text", 5, {"c", "b"}.__contains__) == ["b", "c"]


def test_weights_decide():
    index: Index[str] = Index()
    index.put("name", weighed([("weather", 3), ("words of a description", 1)]))
    index.put("text", weighed([("words", 3), ("description of a weather", 1)]))
    assert index.search("weather", 5) == ["name", "text"]


def test_words_that_say_nothing_count_only_alone():
    index = index_of(a="the of and what", b="route")
    assert index.search("what is the route", 5) == ["b"]
    assert index.search("what is the", 5) == ["a"]
