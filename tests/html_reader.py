"""HTML read by Python's own parser."""

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Every element with its attributes, in order; fails where they do not nest."""

    def __init__(self, text):
        super().__init__()
        self.found, self._open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "input", "meta"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
