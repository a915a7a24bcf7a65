//! What a subcommand can fail of, in one line, and the exit code for it.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::text::escaped;

/// Why a subcommand did not succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// The command line contradicts itself in a way that clap does not see.
    #[error("{0}")]
    Usage(String),
    #[error("cannot connect to {server}: {}", escaped(&innermost(source)))]
    Connect { server: String, source: tonic::transport::Error },
    #[error("{}", describe(.0))]
    Call(Box<Status>),
    #[error("no answer within {} (DEADLINE_EXCEEDED)", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("cannot read {what}: {source}")]
    Input { what: String, source: io::Error },
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// The call succeeded, what was asked for did not happen.
    #[error("{0}")]
    NotDone(String),
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl CliError {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            // Whoever reads has read enough, as in `heartwire events | head`.
            _ if self.is_broken_pipe() => ExitCode::SUCCESS,
            _ => ExitCode::from(1),
        }
    }

    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The deepest cause is the one that says something: "Connection refused" under "transport error".
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// `message (CODE, REASON)`, with nothing in it that a terminal would act on.
pub(super) fn describe(status: &Status) -> String {
    let mut text = escaped(status.message());
    if let Some(source) = status.source() {
        let cause = escaped(&innermost(source));
        if cause != text && !text.is_empty() {
            text.push_str(": ");
        }
        if cause != text {
            text.push_str(&cause);
        }
    }
    if text.is_empty() {
        text.push_str("the call failed");
    }
    let _ = write!(text, " ({}", code_name(status.code()));
    if let Some(reason) = reason(status) {
        let _ = write!(text, ", {}", escaped(&reason));
    }
    text.push(')');
    text
}

/// `ErrorInfo.reason`, if there is one.
pub(super) fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason).filter(|reason| !reason.is_empty())
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_failed_call_names_its_code_and_reason() {
        let details = ErrorDetails::with_error_info("CURSOR_EXPIRED", "heartwire", std::collections::HashMap::new());
        let status = Status::with_error_details(Code::OutOfRange, "the cursor is too old", details);
        assert_eq!(CliError::from(status).to_string(), "the cursor is too old (OUT_OF_RANGE, CURSOR_EXPIRED)");
        assert_eq!(describe(&Status::unavailable("")), "the call failed (UNAVAILABLE)");
    }

    #[test]
    fn what_a_server_says_cannot_drive_the_terminal() {
        assert_eq!(describe(&Status::internal("a\x1b[2J\nb")), "a\\u{1b}[2J\\nb (INTERNAL)");
    }

    #[test]
    fn only_usage_is_exit_code_2_and_a_reader_that_left_is_no_failure() {
        let code = |error: CliError| format!("{:?}", error.exit_code());
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(CliError::Usage(String::new())), expected(2));
        assert_eq!(code(CliError::NotDone(String::new())), expected(1));
        assert_eq!(code(io::Error::from(io::ErrorKind::BrokenPipe).into()), expected(0));
        assert_eq!(code(io::Error::from(io::ErrorKind::StorageFull).into()), expected(1));
    }
}
