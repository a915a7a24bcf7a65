//! The environment variables `HEARTWIRE_SECTION__KEY`, and those that are none of Heartwire's though they look it.

use super::error::Problem;
use super::known::{ENV_PREFIX, Known};
use super::load::{Entry, Raw, Setting};
use super::source::Origin;

/// Read elsewhere: the path of the file, and the server that the subcommands talk to.
const RESERVED: [&str; 2] = ["HEARTWIRE_CONFIG", "HEARTWIRE_SERVER"];

/// The settings in an environment. A variable that begins with `HEARTWIRE_` and means nothing is a problem: a misspelt
/// one that is ignored would go unnoticed.
pub(super) fn read(env: &[(String, String)], known: &Known) -> Vec<Entry> {
    // The system's order means nothing; the same mistakes should read the same twice.
    let mut env: Vec<_> = env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    env.sort();
    env.into_iter().filter_map(|(name, value)| entry(name, value, known)).collect()
}

fn entry(name: &str, value: &str, known: &Known) -> Option<Entry> {
    let origin = Origin::Environment { name: name.to_owned() };
    if let Some(key) = known.key_of_variable(name) {
        return Some(Ok(Setting { key: key.to_owned(), value: Raw::Text(value.to_owned()), origin }));
    }
    if RESERVED.contains(&name) || is_service_link(name, value) {
        return None;
    }
    Some(Err(Box::new(Problem::general(known.unknown_variable(name)).at(origin))))
}

/// Whether Kubernetes (or Docker's links) put the variable there: a Service called `heartwire` or `heartwire-ws` in the
/// pod's namespace adds `HEARTWIRE_SERVICE_HOST`, `HEARTWIRE_WS_PORT_8181_TCP` and more to every container, and must
/// not keep Heartwire from starting.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return true;
    }
    if name.ends_with("_PORT") && ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme)) {
        return true;
    }
    let Some((_, port)) = name.split_once("_PORT_") else { return false };
    let mut parts = port.split('_');
    parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
        && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
        && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_with(name: &str, value: &str) -> Vec<String> {
        let entries = read(&[(name.to_owned(), value.to_owned())], &Known::new());
        entries.into_iter().filter_map(Result::err).map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn a_misspelt_variable_is_a_problem_that_names_it() {
        for name in ["HEARTWIRE_WS__LISEN", "HEARTWIRE_WS_LISTEN", "HEARTWIRE_WS__LISTEN__X", "HEARTWIRE_ws__listen"] {
            let problems = problems_with(name, "x");
            assert_eq!(problems, [format!("environment variable {name}: unknown, did you mean HEARTWIRE_WS__LISTEN?")]);
        }
        assert_eq!(problems_with("HEARTWIRE_DEBUG", "1").len(), 1);
        assert_eq!(problems_with("HEARTWIRE_", "1").len(), 1);
    }

    #[test]
    fn other_programs_variables_and_the_reserved_ones_are_left_alone() {
        for name in ["PATH", "HEARTWIRE", "heartwire_ws__listen", "HEARTWIRE_CONFIG", "HEARTWIRE_SERVER"] {
            assert!(problems_with(name, "x").is_empty(), "{name}");
        }
    }

    #[test]
    fn what_kubernetes_adds_for_a_service_called_heartwire_is_left_alone() {
        for (name, value) in [
            ("HEARTWIRE_SERVICE_HOST", "10.0.0.11"),
            ("HEARTWIRE_SERVICE_PORT", "8181"),
            ("HEARTWIRE_SERVICE_PORT_WS", "8181"),
            ("HEARTWIRE_PORT", "tcp://10.0.0.11:8181"),
            ("HEARTWIRE_PORT_8181_TCP", "tcp://10.0.0.11:8181"),
            ("HEARTWIRE_PORT_8181_TCP_PROTO", "tcp"),
            ("HEARTWIRE_WS_PORT_8181_TCP_ADDR", "10.0.0.11"),
            ("HEARTWIRE_WS_SERVICE_HOST", "10.0.0.11"),
        ] {
            assert!(problems_with(name, value).is_empty(), "{name}");
        }
        for (name, value) in [("HEARTWIRE_PORT", "8181"), ("HEARTWIRE_PORT_X_TCP", "1"), ("HEARTWIRE_WS__PORT", "1")] {
            assert_eq!(problems_with(name, value).len(), 1, "{name}");
        }
    }
}
