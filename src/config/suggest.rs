//! "Did you mean": the known name nearest to a mistaken one.

/// Beyond it nothing is near, and the table would cost for nothing: a name from outside may have any length.
const MAX_NAME: usize = 80;

/// The candidate fewest edits away, if it is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let length = name.chars().count();
    if length > MAX_NAME {
        return None;
    }
    let near = (length / 4).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(&name, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("listen", "lisen", 1)] {
            assert_eq!(distance(a, b), edits);
            assert_eq!(distance(b, a), edits);
        }
    }

    #[test]
    fn a_typing_error_is_recognised_and_a_stranger_is_not() {
        let known = ["ws.listen", "ws.max_message", "log.max_bytes"];
        assert_eq!(nearest("ws.lisen", known), Some("ws.listen"));
        assert_eq!(nearest("WS.MAX_MESSAGES", known), Some("ws.max_message"));
        assert_eq!(nearest("tls.certificate", known), None);
        assert_eq!(nearest(&"w".repeat(1_000_000), known), None);
    }
}
