"""LlamaGen's caption cleaning, as applied to the captions of its training data. Works on strings only.

One pass: undo URL quoting and lower-case; remove addresses; remove HTML; normalise marks (`_MARKS`); split compounds of
many parts; repair the encoding; remove remains of shop pages (`_SHOP_PAGES`); tidy the ends (`_ENDS`). Each rule is
applied to the result of the previous ones, so their order is part of the definition, and so are the oddities noted
beside them.

Most captions are plain words that no rule changes (`_PLAIN`), and most rules need a rare character. Such captions and
rules are skipped to save time; the tests compare the result with that of applying all rules.

Every pattern takes linear time on any input, because a match can only start at the beginning of a run. The HTML parser
does not: on unclosed tags it is quadratic in Python versions before the fixes of 2025 (0.2 s at 10 000 characters).
"""

from __future__ import annotations

import html
import re
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup
from bs4.builder import ParserRejectedMarkup

from gendiv_lightning.errors import PromptError

_Rules = tuple[tuple[re.Pattern[str], str, frozenset[str]], ...]
_NOT_ASCII = "\x80"  # stands for any character beyond ASCII among those that a rule needs
_FILE_TYPES = "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_DASHES = (  # inside a character class
    r"\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)


def _rules(*rules: tuple[str, str] | tuple[str, str, str]) -> _Rules:
    """Compile rules of pattern, replacement and characters, one of which a text must contain for the rule to apply."""
    return tuple((re.compile(rule[0]), rule[1], frozenset(rule[2] if len(rule) > 2 else "")) for rule in rules)


def _web_address(scheme: str) -> str:
    """Pattern of an address; its group 1 is a run of characters that is not an address and is kept."""
    scheme = rf"\b{scheme}:(?:/{{1,3}}|[a-z0-9%])"  # a scheme is removed without the host after it
    host = r"\b[a-z0-9.-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
    return rf"{scheme}|{host}|\b((?:(?!{scheme})[a-z0-9.-])+)"


_ADDRESSES = _rules(
    (_web_address("https?"), r"\1", ":."),
    (_web_address("www"), r"\1", ":."),  # "www:" never occurs; a "www." address is matched as a host
)

_MARKS = _rules(
    (r"@\w+", "", "@"),  # nicknames
    (r"[\u31c0-\u9fff]+", "", _NOT_ASCII),  # CJK strokes to ideographs; kana and hangul are kept
    (rf"[{_DASHES}]+", "-", f"-{_NOT_ASCII}"),
    (r"[`´«»“”¨]", '"', f"`{_NOT_ASCII}"),
    (r"[‘’]", "'", _NOT_ASCII),
    (r"&quot;?", "", "&"),  # entities that were escaped twice
    (r"&amp", "", "&"),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " ", "."),  # IP addresses
    (r"\d:\d\d\s+$", "", ":"),  # article numbers; as the text is stripped, only if something after them was removed
    (r"\\n", " ", "\\"),  # an escaped line break
    (r"#\d{1,3}\b", "", "#"),
    (r"#\d{5,}\b", "", "#"),
    (r"\b\d{6,}\b", ""),
    (rf"(?<!\S)\S+\.{_FILE_TYPES}", "", "."),  # file names, up to the last known type in the word
    (r"[\"']{2,}", '"', f"\"'`{_NOT_ASCII}"),
    (r"\.{2,}", " ", "."),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " ", rf"#&@~()[]{{}}|\/*{_NOT_ASCII}"),
    (r"(?<!\s)\s+\.\s+", " ", "."),
)

_SHOP_PAGES = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # article codes: jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),  # "a shipping container" loses its word too
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\s(?:for|on)\s\w+", ""),
    (rf"\b{_FILE_TYPES}(?:\simages?)?", ""),  # does not require a word end: "epsilon" becomes "ilon"
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+(?:\.\d*)?[xх×]\d+(?:\.\d*)?\b", ""),  # sizes, with a Latin x, a Cyrillic one or a times sign
)

_ENDS = _rules(
    (r"\b\s+:\s+", ": ", ":"),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"'](.+)[\"']$", r"\1"),  # one pair of quotes, matching or not
    (r"^['_,:;-]", ""),
    (r"['_,:+-]$", ""),
    (r"^\.\S+$", ""),
)


def _apply(rules: _Rules, text: str) -> str:
    present = set(text)
    if not text.isascii():
        present.add(_NOT_ASCII)
    for pattern, replacement, needed in rules:
        if not needed or not needed.isdisjoint(present):
            text = pattern.sub(replacement, text)
    return text


def _drop_html(text: str) -> str:
    """Text of an HTML fragment: tags are removed without a space, entities are decoded."""
    # Plain text parses to itself. Skipping it saves time and the parser's warning about text that looks like a file.
    if "<" not in text and "&" not in text:
        return text
    try:
        return BeautifulSoup(text, features="html.parser").get_text()
    except ParserRejectedMarkup as error:
        raise PromptError(
            f"caption must be text or HTML that can be parsed, got {text!r}. Remove the '<![' from it"
        ) from error


def _open_compounds(text: str) -> str:
    """Replace hyphens and underscores by spaces if there are more than three: a slug, not a hyphenated word."""
    return re.sub("[-_]", " ", text) if text.count("-") + text.count("_") > 3 else text


_WORD = r"(?:[a-z]+(?:['-][a-z]+)*|\d{1,5})"
_PLAIN = re.compile(rf"{_WORD}(?:[,.]? {_WORD})*\.?")
_WORDS_OF_RULES = re.compile(rf"\b{_FILE_TYPES}|shipping|download|\bclick |\bpage ")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f&]")


def _is_clean(text: str) -> bool:
    """Whether no rule applies: lower-case words and short numbers with single spaces, without words of the rules."""
    return _PLAIN.fullmatch(text) is not None and text.count("-") <= 3 and not _WORDS_OF_RULES.search(text)


def clean_once(text: str) -> str:
    """Apply the cleaning once; models were trained on two passes, see `clean_caption`."""
    lower = text.lower()
    if _is_clean(lower):
        return lower
    text = unquote_plus(text).strip().lower().replace("<person>", "person")
    text = _drop_html(_apply(_ADDRESSES, text))
    text = _open_compounds(_apply(_MARKS, text))
    text = html.unescape(html.unescape(_fix_encoding(text))).strip()
    return _apply(_ENDS, _apply(_SHOP_PAGES, text)).strip()


def _fix_encoding(text: str) -> str:
    """Apply `ftfy.fix_text`, which does not change printable ASCII without entities."""
    return text if text.isascii() and not _CONTROL.search(text) else ftfy.fix_text(text)


def clean_caption(text: str) -> str:
    """Clean a caption as LlamaGen does before T5, in training and sampling: `clean_once`, applied twice.

    The result is lower case on one line and may be empty ("free download"). In ordinary prompts only case, outer
    whitespace and typographic quotes change. Anything that looks like web-page debris is removed: "shipping", "10x20",
    the "++" of "C++".

    Source: Sun et al., LlamaGen (arXiv:2406.06525), whose cleaner comes from DeepFloyd IF via PixArt-alpha.

    Raises:
        ValueError: the caption contains HTML that the parser rejects (a stray "<![", in some Python versions).
    """
    return clean_once(clean_once(text))
