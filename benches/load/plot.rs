//! Growth plots as SVG, by plain code: a line a server, from 0, labelled where it ends, readable on light and dark ground.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::record;
use crate::results::{Report, Series};
use crate::table::number;

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 58.0;

/// Of middling lightness, so that they stand off from white and from black; told apart by their labels too.
const COLOURS: [&str; 8] = ["#d9480f", "#1c7ed6", "#2f9e44", "#9c36b5", "#b8860b", "#0c8599", "#e64980", "#868e96"];

/// Least distance between two labels.
const LABEL: f64 = 15.0;

/// Height of the ground that a label's text stands on, as far as its middle.
const HALF_LINE: f64 = 4.0;

/// Draws a recorded report again, beside its file.
pub fn draw_file(file: &Path) -> Result<(), String> {
    let report = record::read(file)?;
    let directory = file.parent().unwrap_or(Path::new("."));
    let drawn = write(&report, directory)?;
    if drawn.is_empty() {
        return Err(format!("{} has no curves", file.display()));
    }
    drawn.iter().for_each(|path| println!("Drawn in {}", path.display()));
    Ok(())
}

/// Writes a plot for each metric that was measured at several numbers of connections.
pub fn write(report: &Report, directory: &Path) -> Result<Vec<PathBuf>, String> {
    let mut metrics: Vec<(&str, &str)> = Vec::new();
    for series in report.servers.iter().flat_map(|server| &server.series) {
        let key = (series.metric.as_str(), series.unit.as_str());
        if series.connections.is_some() && !metrics.contains(&key) {
            metrics.push(key);
        }
    }
    let draw = |(metric, unit): (&str, &str)| {
        let path = directory.join(format!("{}-{}.svg", report.scenario, metric.replace(' ', "-")));
        fs::write(&path, svg(report, metric, unit)).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    };
    metrics.into_iter().map(draw).collect()
}

/// One server's line.
struct Line<'a> {
    name: &'a str,
    colour: &'static str,
    points: Vec<(f64, &'a Series)>,
}

fn lines<'a>(report: &'a Report, metric: &str) -> Vec<Line<'a>> {
    let of = |(server, colour): (&'a crate::results::ServerResults, &&'static str)| {
        let mut points: Vec<_> = server
            .series
            .iter()
            .filter(|series| series.metric == metric)
            .filter_map(|series| Some((f64::from(series.connections?), series)))
            .collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        Line { name: &server.name, colour, points }
    };
    report.servers.iter().zip(COLOURS.iter().cycle()).map(of).filter(|line| !line.points.is_empty()).collect()
}

fn svg(report: &Report, metric: &str, unit: &str) -> String {
    let lines = lines(report, metric);
    let all = || lines.iter().flat_map(|line| &line.points);
    let most_x = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let top = all().map(|(_, series)| series.range().1).fold(f64::MIN_POSITIVE, f64::max);
    let step = round_step(top / 5.0);
    let most_y = (top / step).ceil() * step;
    let x = |value: f64| LEFT + value / most_x * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - (value / most_y).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM);

    let mut text = String::new();
    let mut put = |words: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{words}");
    };
    put(format_args!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" font-family="system-ui, sans-serif" font-size="13">
<style>
  .ground {{ fill: #ffffff }} .ink {{ fill: #212529 }} .faint {{ fill: #5c636a }} .grid {{ stroke: #dee2e6 }} .axis {{ stroke: #868e96 }}
  @media (prefers-color-scheme: dark) {{
    .ground {{ fill: #15181b }} .ink {{ fill: #e9ecef }} .faint {{ fill: #a3abb2 }} .grid {{ stroke: #343a40 }}
  }}
</style>
<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>"##
    ));
    put(format_args!(
        r#"<text class="ink" x="{LEFT}" y="24" font-size="16">{} ({})</text>"#,
        escape(&upper(metric)),
        escape(unit)
    ));
    put(format_args!(
        r#"<text class="faint" x="{LEFT}" y="43" font-size="12">{}</text>"#,
        escape(&format!(
            "medians and ranges, rounds: {}{}{}; {}, Linux {}, {} cores{}",
            report.rounds,
            if report.tls { "; over TLS" } else { "" },
            if report.sessions { "; with sessions" } else { "" },
            report.host.date.split('T').next().unwrap_or_default(),
            report.host.kernel,
            report.host.cores,
            if report.host.profile == "debug" { "; a debug build" } else { "" }
        ))
    ));
    for tick in 0..=(most_y / step).round() as u32 {
        let value = f64::from(tick) * step;
        put(format_args!(
            r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{1:.1}" y2="{1:.1}"/><text class="faint" x="{2:.1}" y="{3:.1}" text-anchor="end">{4}</text>"#,
            WIDTH - RIGHT,
            y(value),
            LEFT - 8.0,
            y(value) + HALF_LINE,
            axis_number(value, step),
        ));
    }
    let step_x = round_step(most_x / 6.0);
    for tick in 0..=(most_x / step_x).floor() as u32 {
        let value = f64::from(tick) * step_x;
        put(format_args!(
            r#"<text class="faint" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            x(value),
            HEIGHT - BOTTOM + 20.0,
            axis_number(value, step_x)
        ));
    }
    put(format_args!(
        r#"<line class="axis" x1="{LEFT}" x2="{:.1}" y1="{1:.1}" y2="{1:.1}"/><text class="ink" x="{2:.1}" y="{3:.1}" text-anchor="middle">connections</text>"#,
        WIDTH - RIGHT,
        y(0.0),
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 16.0
    ));
    for line in &lines {
        let path: Vec<_> =
            line.points.iter().map(|(at, series)| format!("{:.1},{:.1}", x(*at), y(series.median()))).collect();
        put(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>"#,
            path.join(" "),
            line.colour
        ));
        for (at, series) in &line.points {
            let (least, most) = series.range();
            put(format_args!(
                r#"<line x1="{0:.1}" x2="{0:.1}" y1="{1:.1}" y2="{2:.1}" stroke="{3}"/><circle cx="{0:.1}" cy="{4:.1}" r="3" fill="{3}"/>"#,
                x(*at),
                y(least),
                y(most),
                line.colour,
                y(series.median())
            ));
        }
    }
    for (line, at) in labels(&lines, y) {
        let last = line.points.last().map_or(f64::NAN, |(_, series)| series.median());
        put(format_args!(
            r#"<text x="{:.1}" y="{:.1}" fill="{}">{} {}</text>"#,
            WIDTH - RIGHT + 8.0,
            at + HALF_LINE,
            line.colour,
            escape(line.name),
            number(last)
        ));
    }
    put(format_args!("</svg>"));
    text
}

/// Where each label goes: at the end of its line, or as near to it as the others leave room.
fn labels<'a, 'b>(lines: &'b [Line<'a>], y: impl Fn(f64) -> f64) -> Vec<(&'b Line<'a>, f64)> {
    let end = |line: &Line<'_>| line.points.last().map_or(0.0, |(_, series)| y(series.median()));
    let mut placed: Vec<_> = lines.iter().map(|line| (line, end(line))).collect();
    placed.sort_by(|one, other| one.1.total_cmp(&other.1));
    for at in 1..placed.len() {
        placed[at].1 = placed[at].1.max(placed[at - 1].1 + LABEL);
    }
    // What was pushed over the foot is pushed back up.
    let mut most = HEIGHT - BOTTOM;
    for (_, at) in placed.iter_mut().rev() {
        *at = at.min(most);
        most = *at - LABEL;
    }
    placed
}

/// 1, 2 or 5 times a power of ten, not less than the value.
fn round_step(value: f64) -> f64 {
    let power = 10f64.powf(value.max(f64::MIN_POSITIVE).log10().floor());
    [1.0, 2.0, 5.0].map(|times| times * power).into_iter().find(|step| *step >= value).unwrap_or(10.0 * power)
}

/// As many decimals as the step between two needs.
fn axis_number(value: f64, step: f64) -> String {
    if step >= 1.0 {
        return if value < 1000.0 { format!("{value:.0}") } else { number(value) };
    }
    let digits = (-step.log10()).ceil() as usize;
    format!("{value:.digits$}")
}

fn upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
