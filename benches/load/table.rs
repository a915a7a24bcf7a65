//! A report as text: a Markdown table with medians, ranges and ratios, and what must be known to read it.

use std::fmt::Write as _;

use crate::results::{Report, ServerResults};

pub fn text(report: &Report) -> String {
    let mut text = String::new();
    let host = &report.host;
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{words}");
    };
    line(format_args!("\n## {}: {}\n", report.scenario, report.about));
    line(format_args!("{}; rounds: {}, medians and ranges.", report.parameters, report.rounds));
    line(format_args!(
        "{}, Linux {}, {} cores ({}), load before {}, {} build.\n",
        host.date, host.kernel, host.cores, host.processor, host.load_before, host.profile
    ));
    if host.profile == "debug" {
        line(format_args!("**A debug build: this shows that the scenario works, and no speed.**\n"));
    }
    if report.tls {
        line(format_args!(
            "Over TLS: clients verify a certificate with an ECDSA key on P-256, and every handshake is a full one. The backend's side is plain.\n"
        ));
    }
    if report.sessions {
        line(format_args!(
            "With sessions: clients speak `heartwire.v1.json`, begin with `hello`, heartbeat by its envelope, and acknowledge each message.\n"
        ));
    }
    line(format_args!("| metric | server | median | range | ratio |"));
    line(format_args!("|---|---|--:|--:|--:|"));
    for (metric, connections) in metrics(report) {
        for server in &report.servers {
            let Some(series) = server.series(&metric, connections) else { continue };
            let (least, most) = series.range();
            let at = connections.map_or_else(String::new, |count| format!(" at {count}"));
            let sign = if series.less_is_better { "↓" } else { "↑" };
            line(format_args!(
                "| {metric}{at} ({}) {sign} | {} | {} | {} – {} | {} |",
                series.unit,
                server.name,
                number(series.median()),
                number(least),
                number(most),
                ratio(report, server, &metric, connections),
            ));
        }
    }
    line(format_args!(
        "\n↓ less is better, ↑ more is better. Ratios are to {}.",
        report.reference.as_deref().unwrap_or("nobody")
    ));
    if !report.settings.is_empty() {
        line(format_args!("Heartwire was set otherwise than by default: {}.", report.settings.join(", ")));
    }
    for server in &report.servers {
        line(format_args!("- **{}**: {} {}.", server.name, server.title, server.version));
        if let Some(agreed) = &server.tls {
            line(format_args!("  - TLS: {agreed}."));
        }
        for differs in &server.differs {
            line(format_args!("  - Differs: {differs}."));
        }
        for remark in &server.remarks {
            line(format_args!("  - Remark: {remark}."));
        }
        for failure in &server.failures {
            line(format_args!("  - **Failed**: {failure}."));
        }
    }
    for skipped in &report.skipped {
        line(format_args!("- Left out: {skipped}."));
    }
    text
}

/// Every metric of any server, in the order of first appearance.
fn metrics(report: &Report) -> Vec<(String, Option<u32>)> {
    let mut all = Vec::new();
    for series in report.servers.iter().flat_map(|server| &server.series) {
        let key = (series.metric.clone(), series.connections);
        if !all.contains(&key) {
            all.push(key);
        }
    }
    all
}

fn ratio(report: &Report, server: &ServerResults, metric: &str, connections: Option<u32>) -> String {
    let reference = report.servers.iter().find(|other| Some(&other.name) == report.reference.as_ref());
    let base = reference.and_then(|other| other.series(metric, connections)).map(|series| series.median());
    let own = server.series(metric, connections).map(|series| series.median());
    match (own, base) {
        (Some(own), Some(base)) if base > 0.0 => format!("{:.2}", own / base),
        _ => "–".to_owned(),
    }
}

/// Three significant digits below a thousand, whole numbers with separators from there on.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value.abs() < 1000.0 {
        let digits = if value.abs() >= 100.0 {
            0
        } else if value.abs() >= 10.0 {
            1
        } else {
            2
        };
        return format!("{value:.digits$}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}
