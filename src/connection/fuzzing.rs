//! What holds of the plain protocol whatever a client sends; for the fuzz targets, and for a test over their seeds.

mod envelope;

pub use envelope::envelope;

use bytes::Bytes;

use super::Inbound;
use super::identify::{Identified, first_text};
use super::plain::{Meaning, meaning};
use crate::close::CloseReason;
use crate::ids::{ClientId, MAX_CLIENT_ID_BYTES};

/// Bytes of a text frame, as the first of a connection and as a later one.
///
/// # Panics
/// If something does not hold.
pub fn plain(bytes: &[u8]) {
    for assign_ids in [true, false] {
        first(bytes, assign_ids);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        later(text);
    }
}

fn first(bytes: &[u8], assign_ids: bool) {
    match first_text(Bytes::copy_from_slice(bytes), assign_ids) {
        Ok(Identified { client_id: Some(id), first, speaks_text }) => {
            assert!(speaks_text && first.is_none());
            assert!((1..=MAX_CLIENT_ID_BYTES).contains(&id.as_str().len()));
            assert_eq!(ClientId::chosen(id.as_str()).as_ref(), Ok(&id));
            // However it is set apart and padded, it is the same id.
            for separator in [':', ' ', '='] {
                let again = format!("\r\n heartbeat{separator} {}\t ", id.as_str());
                let again = first_text(again.into(), assign_ids).map(|again| again.client_id);
                assert!(again.is_ok_and(|again| again.as_ref() == Some(&id)));
            }
        }
        Ok(Identified { client_id: None, first, speaks_text }) => {
            assert!(assign_ids);
            match first {
                // A message goes to the backends as it came.
                Some(Inbound::Text(text)) => assert!(!speaks_text && text == bytes),
                Some(other) => panic!("{other:?} of a text"),
                None => assert!(speaks_text),
            }
        }
        Err(CloseReason::BadUtf8) => assert!(std::str::from_utf8(bytes).is_err()),
        Err(CloseReason::EmptyText) => assert!(bytes.trim_ascii().is_empty()),
        // What is told has to fit in a Close.
        Err(CloseReason::BadIdentity(why)) => assert!(why.len() <= 123),
        Err(other) => panic!("{other:?} at the first frame"),
    }
}

fn later(text: &str) {
    let means = meaning(text);
    assert_eq!(meaning(&format!("\t {text}\r\n")), means, "white space around it means nothing");
    let trimmed = text.trim_matches(|letter: char| letter.is_ascii_whitespace());
    match means {
        Meaning::Close => assert!(trimmed.is_empty()),
        Meaning::Business => assert!(!trimmed.is_empty() && !trimmed.starts_with("heartbeat")),
        Meaning::Heartbeat(None) => assert!(trimmed.starts_with("heartbeat")),
        Meaning::Heartbeat(Some(id)) => assert_eq!(meaning(&format!("heartbeat:{id}")), Meaning::Heartbeat(Some(id))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_seed_of_what_clients_send_holds() {
        for (target, check) in [("plain", super::plain as fn(&[u8])), ("envelope", super::envelope)] {
            let seeds = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
            let seeds: Vec<_> = std::fs::read_dir(seeds).expect("seeds").collect();
            assert!(!seeds.is_empty());
            for seed in seeds {
                check(&std::fs::read(seed.expect("a seed").path()).expect("is read"));
            }
        }
    }
}
