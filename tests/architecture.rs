//! Who may import whom: an arrow that points back is a mistake, however convenient.

use std::fs;
use std::path::{Path, PathBuf};

/// Low to high. A module may use itself and those of lower layers; those of one layer never import each other.
const LAYERS: &[&[&str]] = &[
    &["ids", "labels", "position", "clock", "pb"],
    &["close", "heartbeat", "shutdown"],
    &["event"],
    &["metrics", "line"],
    &["outbox", "log", "store"],
    &["registry"],
    &["dispatch", "drain", "connection", "consumers", "mailbox"],
    &["ws", "grpc", "admin"],
    &["app"],
];

/// Leaves that know nothing of the rest, and who alone may use them.
const LEAVES: &[(&str, &[&str])] =
    &[("config", &["telemetry", "grpc", "app", "cli"]), ("telemetry", &["app"]), ("cli", &[])];

/// Crates that only some modules may name.
const GUARDED: &[(&str, &[&str])] = &[
    ("tonic", &["grpc", "cli", "lib"]),
    ("tonic_health", &["grpc", "cli"]),
    ("tonic_types", &["grpc", "cli"]),
    ("tonic_reflection", &["grpc"]),
    ("prost", &["grpc", "cli"]),
    ("prost_types", &["grpc", "cli"]),
    ("prost_reflect", &["cli"]),
    ("tokio_tungstenite", &["ws"]),
    ("tungstenite", &["ws"]),
    ("rustls", &["ws"]),
    ("axum", &["admin"]),
    ("clap", &["cli", "config"]),
    ("redb", &["store"]),
    ("rustix", &["log"]),
    ("crc32c", &["log"]),
    ("prometheus_client", &["metrics"]),
];

/// What is wrong with one file of a module.
fn wrongs(module: &str, text: &str) -> Vec<String> {
    let text = without_comments(text);
    let mut wrongs: Vec<_> = imports(&text)
        .into_iter()
        .filter(|used| !may_use(module, used))
        .map(|used| format!("{module} -> {used}"))
        .collect();
    for (name, allowed) in GUARDED {
        if !allowed.contains(&module) && names_crate(&text, name) {
            wrongs.push(format!("{module} names {name}"));
        }
    }
    wrongs
}

fn may_use(module: &str, used: &str) -> bool {
    if module == used || matches!(module, "lib" | "main") {
        return true;
    }
    if used == "pb" {
        return matches!(module, "grpc" | "cli");
    }
    if let Some((_, allowed)) = LEAVES.iter().find(|(leaf, _)| *leaf == used) {
        return allowed.contains(&module);
    }
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    match (layer(module), layer(used)) {
        (Some(high), Some(low)) => low < high,
        // A leaf that reaches into the rest, or a module that nobody gave a place.
        _ => false,
    }
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.find("//").map_or(line, |at| &line[..at])).collect::<Vec<_>>().join("\n")
}

/// The modules named after `crate::`, also those in braces.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in text.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_members(group)),
            None => found.push(word(rest).to_owned()),
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The first word of each member of a group, up to its closing brace.
fn group_members(group: &str) -> Vec<String> {
    let (mut members, mut depth, mut fresh) = (Vec::new(), 1, true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            _ if fresh && depth == 1 && !letter.is_whitespace() => {
                members.push(word(&group[at..]).to_owned());
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    members
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}

fn names_crate(text: &str, name: &str) -> bool {
    text.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

/// Tests live in modules at the end of a file, or in files of their own that their parent declares under `cfg(test)`.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

/// The files that a file declares as modules for tests only.
fn test_files(file: &Path, text: &str) -> Vec<PathBuf> {
    let stem = file.file_stem().expect("a name").to_string_lossy().into_owned();
    let beside = file.parent().expect("a folder");
    let folder = if matches!(&*stem, "mod" | "lib" | "main") { beside.to_owned() } else { beside.join(stem) };
    let declared = text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let line = rest.lines().next()?.strip_suffix(';')?;
        line.rsplit("mod ").next().map(str::to_owned)
    });
    declared.flat_map(|name| [folder.join(format!("{name}.rs")), folder.join(name)]).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_arrow_between_modules_points_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).expect("text")).collect();
    let tests: Vec<_> = files.iter().zip(&texts).flat_map(|(file, text)| test_files(file, text)).collect();
    let mut found = Vec::new();
    for (file, text) in files.iter().zip(&texts) {
        if tests.iter().any(|test| file.starts_with(test)) {
            continue;
        }
        let relative = file.strip_prefix(&root).expect("inside");
        let first = relative.iter().next().expect("a name").to_string_lossy();
        let module = first.strip_suffix(".rs").unwrap_or(&first);
        found.extend(wrongs(module, without_tests(text)).into_iter().map(|w| format!("{}: {w}", relative.display())));
    }
    assert!(files.len() > 50 && tests.len() > 5, "the sources were not found");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("text");
    for line in lib.lines() {
        let Some(module) = line.strip_prefix("pub mod ").map(word) else { continue };
        let placed = LAYERS.iter().any(|layer| layer.contains(&module)) || LEAVES.iter().any(|leaf| leaf.0 == module);
        assert!(placed, "{module} is in no layer: say where it belongs");
    }
}

#[test]
fn the_checker_sees_arrows_that_point_back() {
    assert_eq!(wrongs("registry", "use crate::grpc::Health;"), ["registry -> grpc"]);
    assert_eq!(wrongs("ws", "fn f() -> crate::admin::AdminState {}"), ["ws -> admin"]);
    assert_eq!(wrongs("event", "use crate::{ids::{ClientId, X}, registry::Registry};"), ["event -> registry"]);
    assert_eq!(wrongs("log", "use crate::{\n    clock::Clock,\n    outbox::Outbox,\n};"), ["log -> outbox"]);
    assert_eq!(wrongs("registry", "use crate::config::Config;"), ["registry -> config"]);
    assert_eq!(wrongs("config", "use crate::event::Event;"), ["config -> event"]);
    assert_eq!(wrongs("dispatch", "use crate::pb;"), ["dispatch -> pb"]);
    assert_eq!(wrongs("app", "use crate::cli::main;"), ["app -> cli"]);
    assert_eq!(wrongs("novel", "use crate::event::Event;"), ["novel -> event"]);
}

#[test]
fn the_checker_sees_crates_where_they_do_not_belong() {
    assert_eq!(wrongs("connection", "use tokio_tungstenite::tungstenite::Message;").len(), 2);
    assert_eq!(wrongs("dispatch", "fn f() -> Result<(), tonic::Status> {}"), ["dispatch names tonic"]);
    assert_eq!(wrongs("registry", "use ::prost::Message as _;"), ["registry names prost"]);
}

#[test]
fn the_checker_lets_right_arrows_comments_and_tests_pass() {
    assert!(
        wrongs("grpc", "use crate::registry::Registry;\nuse tonic::Status;\nuse crate::grpc::error::Error;").is_empty()
    );
    assert!(wrongs("ids", "/// See [`crate::registry`].\nuse uuid::Uuid;").is_empty());
    let text = "use crate::clock::Clock;\n#[cfg(test)]\nmod tests {\n    use crate::grpc::Health;\n}";
    assert!(wrongs("event", without_tests(text)).is_empty());
    let declared =
        test_files(Path::new("src/cli/events.rs"), "#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod fake;");
    assert!(declared.contains(&PathBuf::from("src/cli/events/tests.rs")), "{declared:?}");
    assert!(declared.contains(&PathBuf::from("src/cli/events/fake.rs")), "{declared:?}");
}
