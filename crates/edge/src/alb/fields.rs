//! Where the fields of a head stand, so that they need not be copied to be known.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// A field of a head: the places of its name and value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) name: Span,
    pub(super) value: Span,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    from: u32,
    bytes: u32,
}

impl Span {
    /// A piece of a head; none has as many bytes as 32 bits can count.
    pub(super) fn of(piece: &[u8], head: &[u8]) -> Span {
        let from = piece.as_ptr().addr() - head.as_ptr().addr();
        Span { from: from as u32, bytes: piece.len() as u32 }
    }

    pub(super) fn range(self) -> std::ops::Range<usize> {
        self.from as usize..self.from as usize + self.bytes as usize
    }
}

impl Place {
    pub(super) fn of(field: &httparse::Header<'_>, head: &[u8]) -> Place {
        Place { name: Span::of(field.name.as_bytes(), head), value: Span::of(field.value, head) }
    }

    pub(super) fn name(self, head: &[u8]) -> &[u8] {
        &head[self.name.range()]
    }

    pub(super) fn value(self, head: &[u8]) -> &[u8] {
        &head[self.value.range()]
    }
}

impl Place {
    /// The whole line, if it is written in the usual way.
    pub(super) fn line(self, head: &[u8]) -> Option<&[u8]> {
        let (name, value) = (self.name.range(), self.value.range());
        let usual = head.get(name.end..value.start) == Some(b": ")
            && head.get(value.end..value.end + 2) == Some(b"\r\n");
        usual.then(|| &head[name.start..value.end + 2])
    }
}

/// All fields, with room for more; `None`: one of them is none.
pub(super) fn map(head: &Bytes, places: &[Place], more: usize) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(places.len() + more);
    for place in places {
        let name = HeaderName::from_bytes(place.name(head)).ok()?;
        // A piece of the head itself: nothing is copied.
        let value = HeaderValue::from_maybe_shared(head.slice(place.value.range())).ok()?;
        headers.append(name, value);
    }
    Some(headers)
}

/// Whether a list of tokens (`Connection`) has this one.
pub(super) fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(token))
}

/// Names as old servers and people expect them.
pub(super) fn title_case(name: &mut [u8]) {
    let mut first = true;
    for byte in name {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
}
