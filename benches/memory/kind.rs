//! The kinds of connections that are measured.

/// What clients speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The plain protocol.
    Plain,
    /// The same over TLS 1.3.
    Tls,
    /// `heartwire.v1.json`, with a session.
    Session,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Session];

    /// On the command line, and behind the names of budgets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Session => "session",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Plain => "A plain connection",
            Self::Tls => "A plain connection over TLS 1.3",
            Self::Session => "A connection with a session of heartwire.v1.json",
        }
    }
}
