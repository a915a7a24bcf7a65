//! The plain protocol: what a text message means to a client that speaks no subprotocol.

/// What a text message means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning<'a> {
    /// "I am alive", with the id that follows a separator; as the first data frame it names the connection.
    Heartbeat(Option<&'a str>),
    /// "Close me".
    Close,
    /// Something for the backends.
    Business,
}

/// "I am alive", as most clients say it, and as the server does.
pub const HEARTBEAT: &str = "heartbeat";

/// The meaning of a text message, trimmed of ASCII white space.
pub(super) fn meaning(text: &str) -> Meaning<'_> {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    if text.is_empty() {
        return Meaning::Close;
    }
    let Some(rest) = text.strip_prefix(HEARTBEAT) else { return Meaning::Business };
    // Without a separator the rest is never an id: the service that this one replaces cut ids out of such words.
    let id = rest.strip_prefix([':', ' ', '=']);
    Meaning::Heartbeat(id.map(|id| id.trim_matches(|c: char| c.is_ascii_whitespace())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_mean_what_the_protocol_says() {
        for (text, expected) in [
            ("heartbeat", Meaning::Heartbeat(None)),
            ("  heartbeat\r\n", Meaning::Heartbeat(None)),
            ("heartbeat:alice", Meaning::Heartbeat(Some("alice"))),
            ("heartbeat=alice", Meaning::Heartbeat(Some("alice"))),
            ("heartbeat alice ", Meaning::Heartbeat(Some("alice"))),
            ("heartbeat: alice", Meaning::Heartbeat(Some("alice"))),
            ("heartbeat:", Meaning::Heartbeat(Some(""))),
            ("heartbeat ", Meaning::Heartbeat(None)),
            ("heartbeatalice", Meaning::Heartbeat(None)),
            ("heartbeat2026-11-23T10:00:00", Meaning::Heartbeat(None)),
            ("", Meaning::Close),
            (" \t\r\n", Meaning::Close),
            ("Heartbeat", Meaning::Business),
            ("heart", Meaning::Business),
            ("\u{a0}", Meaning::Business),
            ("hello heartbeat", Meaning::Business),
        ] {
            assert_eq!(meaning(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_meaning(text: String) {
            let _ = meaning(&text);
        }
    }
}
