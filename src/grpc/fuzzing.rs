//! What holds of cursors and page tokens whatever a backend gives back; for the fuzz targets, and for a test over their seeds.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::page::PageToken;
use crate::position::Position;

/// Bytes before the position in a page token.
const TOKEN_HEAD: usize = 15;
/// Bytes of a cursor before its checksum.
const CURSOR_BODY: usize = 25;

/// Bytes as a text, and behind checksums that fit, which no guess would find.
///
/// # Panics
/// If something does not hold.
pub fn cursor(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        accepted(text);
    }
    let sealed = sealed(bytes);
    accepted(&sealed);
    let sound = bytes.len() == CURSOR_BODY && bytes[0] == 1;
    assert_eq!(Position::from_cursor(&sealed).is_ok(), sound, "every position is one, and nothing else");
    if let Some((head, body)) = bytes.split_at_checked(TOKEN_HEAD) {
        let cursor = self::sealed(body);
        let token = self::sealed(&[head, cursor.as_bytes()].concat());
        accepted(&token);
        let sound = head[0] == 1 && Position::from_cursor(&cursor).is_ok();
        assert_eq!(PageToken::from_text(&token).is_some(), sound);
    }
}

/// There is one way to write what is accepted.
fn accepted(text: &str) {
    if let Ok(position) = Position::from_cursor(text) {
        assert_eq!(position.to_cursor(), text);
    }
    if let Some(token) = PageToken::from_text(text) {
        assert_eq!(token.to_text(), text);
    }
}

fn sealed(body: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([body, &crc32fast::hash(body).to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_seed_of_cursors_holds() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/cursor");
        let seeds: Vec<_> = std::fs::read_dir(seeds).expect("seeds").collect();
        assert!(!seeds.is_empty());
        for seed in seeds {
            super::cursor(&std::fs::read(seed.expect("a seed").path()).expect("is read"));
        }
    }
}
