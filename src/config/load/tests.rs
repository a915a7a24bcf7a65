//! Loading: precedence, and every problem told at once with its key and origin.

use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::*;
use crate::config::{ByteSize, DuplicatePolicy, ServerHeartbeat};

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(text: &str, env: &[(&str, &str)], overrides: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let file = file(text);
    Config::load(&Sources { file: Some(file.path().to_owned()), env: pairs(env), overrides: pairs(overrides) })
}

/// The problems with a file, without its path.
fn problems(text: &str) -> Vec<String> {
    told(load(text, &[], &[]).unwrap_err())
}

/// The problems, without the path of the file.
fn told(errors: ConfigErrors) -> Vec<String> {
    let shown = |mut problem: Problem| {
        for origin in [&mut problem.origin, &mut problem.other_origin] {
            if let Some(Origin::File { path, .. }) = origin {
                *path = "file".into();
            }
        }
        problem.to_string()
    };
    errors.problems.into_iter().map(shown).collect()
}

#[test]
fn without_sources_the_defaults_hold() {
    assert_eq!(Config::load(&Sources::default()), Ok(Config::default()));
    assert_eq!(load("", &[], &[]), Ok(Config::default()));
}

#[test]
fn with_a_data_directory_more_is_kept_unless_something_else_is_said() {
    let shown = |text: &str| {
        let log = load(text, &[], &[]).unwrap().log;
        (log.max_bytes.to_string(), log.max_age.map(|age| age.as_secs() / 86_400))
    };
    assert_eq!(shown("[log]\ndata_dir = \"\""), ("64MiB".to_owned(), None));
    assert_eq!(shown("[log]\ndata_dir = \"/d\""), ("1GiB".to_owned(), Some(7)));
    assert_eq!(shown("[log]\ndata_dir = \"/d\"\nmax_bytes = \"64MiB\"\nmax_age = \"\""), ("64MiB".to_owned(), None));
    let config = load("[log]\ndata_dir = \"/d\"", &[], &[]).unwrap();
    assert_eq!(load(&config.to_toml(), &[], &[]), Ok(config));
}

#[test]
fn flags_go_before_the_environment_before_the_file_before_the_defaults() {
    let text = "[limits]\nmessages_per_second = 1\noutbox_frames = 1\n";
    let env = [("HEARTWIRE_LIMITS__OUTBOX_FRAMES", "2"), ("HEARTWIRE_WS__MAX_HANDSHAKES", "2")];
    let config = load(text, &env, &[("ws.max_handshakes", "3"), ("ws.max_handshakes", "4")]).unwrap();
    assert_eq!(config.limits.messages_per_second, 1);
    assert_eq!(config.limits.outbox_frames, 2);
    assert_eq!(config.ws.max_handshakes, 4);
    assert_eq!(config.ws.max_connections, 65_536);
}

#[test]
fn every_type_of_value_can_be_set_by_text() {
    let config = load(
        "",
        &[
            ("HEARTWIRE_WS__LISTEN", " 127.0.0.1:0\n"),
            ("HEARTWIRE_WS__MAX_MESSAGE", "1MiB"),
            ("HEARTWIRE_WS__ALLOWED_ORIGINS", "https://a.example, null,"),
            ("HEARTWIRE_LIMITS__BYTES_PER_SECOND", "0"),
            ("HEARTWIRE_LOG__MAX_AGE", "7d"),
        ],
        &[
            ("grpc.listen", "0.0.0.0:50051"),
            ("grpc.insecure", "true"),
            ("heartbeat.server", "both"),
            ("heartbeat.interval", "1m 30s"),
            ("heartbeat.timeout", "5m"),
        ],
    )
    .unwrap();
    assert_eq!(config.ws.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.ws.max_message, ByteSize::mib(1));
    assert_eq!(config.ws.allowed_origins, ["https://a.example", "null"]);
    assert_eq!(config.limits.bytes_per_second, ByteSize(0));
    assert_eq!(config.log.max_age, Some(Duration::from_secs(7 * 86_400)));
    assert!(config.grpc.insecure);
    assert_eq!(config.heartbeat.server, ServerHeartbeat::Both);
    assert_eq!(config.heartbeat.interval, Duration::from_secs(90));
}

#[test]
fn an_empty_age_takes_back_the_one_in_the_file() {
    let text = "[log]\nmax_age = \"7d\"\n";
    assert_eq!(load(text, &[("HEARTWIRE_LOG__MAX_AGE", "")], &[]).unwrap().log.max_age, None);
}

#[test]
fn a_size_may_be_a_number_and_a_duration_may_not() {
    let text = "[ws]\nmax_message = 1000\n[heartbeat]\ninterval = 30\n";
    assert_eq!(
        problems(text),
        ["heartbeat.interval: invalid type: integer `30`, expected a duration with its unit, such as \"30s\", \
          \"500ms\" or \"1m 30s\" (file, line 4, column 1)"]
    );
}

#[test]
fn all_problems_of_all_sources_are_told_at_once_each_with_its_key_and_origin() {
    let text = "\
[ws]
lisen = \"0.0.0.0:1\"
max_connections = \"many\"
listen = \"localhost:8181\"

[wss]
listen = 1

[heartbeat]
timeout = \"20s\"
server = \"pong\"

[identity]
duplicates = \"both\"
";
    let env =
        [("HEARTWIRE_GRPC__INSECURE", "yes"), ("HEARTWIRE_WS_LISTEN", "x"), ("HEARTWIRE_WS__MAX_MESSAGE", "4MiB")];
    let errors = load(text, &env, &[("ws.max_handshakes", "-1"), ("nonsense", "1")]).unwrap_err();
    assert!(errors.to_string().starts_with("invalid configuration: 12 problems\n  - "), "{errors}");
    assert_eq!(
        told(errors),
        [
            "ws.lisen: unknown key, did you mean `ws.listen`? (file, line 2, column 1)",
            "ws.max_connections: is of type string, expected a whole number such as 65536 (file, line 3, column 1)",
            "ws.listen: \"localhost:8181\" is not an IP address and port such as 0.0.0.0:8181 or [::]:8181 (names are \
             not looked up) (file, line 4, column 1)",
            "wss: unknown section, did you mean `[ws]`? (file, line 6, column 2)",
            "heartbeat.server: unknown value `pong`, expected one of `auto`, `ping`, `text`, `both`, `off` (file, line \
             11, column 1)",
            "identity.duplicates: unknown value `both`, expected one of `replace`, `reject`, `allow` (file, line 14, \
             column 1)",
            "grpc.insecure: \"yes\" is neither true nor false (environment variable HEARTWIRE_GRPC__INSECURE)",
            "environment variable HEARTWIRE_WS_LISTEN: unknown, did you mean HEARTWIRE_WS__LISTEN?",
            "ws.max_handshakes: -1 is negative, expected 0 or more (command-line flag)",
            "nonsense: unknown key (command-line flag)",
            "ws.max_message: 4MiB is out of range, expected 1B to 3MiB (environment variable HEARTWIRE_WS__MAX_MESSAGE)",
            "heartbeat.timeout: 20s must be longer than heartbeat.interval, which is 30s (file, line 10, column 1; \
             heartbeat.interval: default)",
        ]
    );
}

#[test]
fn a_contradiction_with_a_value_that_did_not_parse_is_not_guessed() {
    let text = "[heartbeat]\ninterval = \"5\"\ntimeout = \"20s\"\n[ws]\nallowed_origins = [1]\n";
    assert_eq!(problems(text).len(), 2, "{:?}", problems(text));
}

#[test]
fn a_mistake_in_a_list_names_its_place_in_it() {
    let told = problems("[ws]\nallowed_origins = [\"null\", 1]\n");
    assert!(told[0].starts_with("ws.allowed_origins[1]: invalid type: integer `1`, expected a string"), "{told:?}");
    let told = problems("[ws]\nallowed_origins = [\"null\", \"https://a/\"]\n");
    assert!(told[0].starts_with("ws.allowed_origins[1]: \"https://a/\": "), "{told:?}");
    assert!(told[0].ends_with("(file, line 2, column 1)"), "{told:?}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let path = std::path::PathBuf::from("/nonexistent/heartwire.toml");
    let sources = Sources { file: Some(path), ..Sources::default() };
    let text = Config::load(&sources).unwrap_err().to_string();
    assert!(text.contains("/nonexistent/heartwire.toml: cannot be read: No such file"), "{text}");
}

#[test]
fn a_file_that_is_not_toml_is_told_with_line_and_column() {
    let told = problems("[ws]\nlisten = = 1\n");
    assert!(told[0].starts_with("file, line 2, column 10: "), "{told:?}");
    assert_eq!(told.len(), 1);
    assert!(problems("[ws]\nlisten = \"a\"\nlisten = \"b\"\n")[0].contains("line 3, column 1"));
}

#[test]
fn an_unreadable_file_does_not_hide_the_other_problems_nor_make_new_ones() {
    let env = [("HEARTWIRE_GRPC__LISTEN", "0.0.0.0:50051"), ("HEARTWIRE_NONE", "1")];
    assert_eq!(load("[", &env, &[]).unwrap_err().problems.len(), 2);
}

#[test]
fn a_key_outside_its_section_is_told_where_it_belongs() {
    let told = problems("listen = \"0.0.0.0:1\"\nws = 1\nnonsense = 1\n");
    assert_eq!(told.len(), 3);
    assert!(told[0].contains("keys belong in a section such as [ws]"), "{told:?}");
    assert!(told[1].starts_with("ws: is a section"), "{told:?}");
}

#[test]
fn a_number_too_great_for_toml_is_a_problem_of_its_key() {
    let told = problems("[limits]\noutbox_frames = 99999999999999999999\n");
    assert!(told[0].starts_with("limits.outbox_frames: "), "{told:?}");
}

#[test]
fn the_environment_goes_before_the_file_for_the_enumerated_too() {
    let text = "[identity]\nduplicates = \"replace\"\n";
    let config = load(text, &[("HEARTWIRE_IDENTITY__DUPLICATES", "reject")], &[]).unwrap();
    assert_eq!(config.identity.duplicates, DuplicatePolicy::Reject);
}

#[test]
fn each_key_refuses_each_wrong_type_by_its_name() {
    let known = Known::new();
    for key in known.keys() {
        let (section, name) = key.split_once('.').unwrap();
        for wrong in ["{ a = 1 }", "1.5", "2020-01-01", "[[1]]"] {
            let told = problems(&format!("[{section}]\n{name} = {wrong}\n"));
            assert!(told[0].starts_with(key) && told[0].contains("expected"), "{wrong}: {told:?}");
        }
    }
}

#[test]
fn each_key_takes_its_own_default_as_text() {
    for (key, default) in Known::new().keys().map(|key| (key, Known::new().default_of(key).cloned().unwrap())) {
        let text = match default {
            Value::String(text) => text,
            Value::Array(_) => String::new(),
            other => other.to_string(),
        };
        assert_eq!(load("", &[], &[(key, &text)]), Ok(Config::default()), "{key}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_file_makes_loading_panic(text in "(\\[(ws|log|grpc)\\]\n)?(listen|max_age|\\PC{0,5})( = \\PC{0,20})?\n\\PC*") {
        let _ = load(&text, &[], &[]).map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_environment_or_flag_makes_loading_panic(name in "\\PC*", value in "[\\PC\n\t]*", index in 0usize..36) {
        let known = Known::new();
        let key = known.keys().nth(index).unwrap_or("ws.listen");
        let variable = format!("HEARTWIRE_{name}");
        for result in [load("", &[(&variable, &value)], &[(&name, &value)]), load("", &[], &[(key, &value)])] {
            let _ = result.map_err(|errors| errors.to_string());
        }
    }

    #[test]
    fn what_is_printed_is_loaded_as_it_was(
        interval in 100u64..3_600_000,
        bytes in 1u64..3 << 20,
        age in proptest::option::of(1u64..1 << 40),
        id in "[!-~]{0,64}",
    ) {
        let mut config = Config::default();
        config.heartbeat.interval = Duration::from_millis(interval);
        config.heartbeat.timeout = Duration::from_millis(interval * 2);
        config.ws.max_message = ByteSize(bytes);
        config.log.max_age = age.map(Duration::from_secs);
        config.node.id = id;
        prop_assert_eq!(load(&config.to_toml(), &[], &[]), Ok(config));
    }
}
