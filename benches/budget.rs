//! The budgets in `budgets.toml`, and what a measurement is against one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;

/// One section of the file.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// By how many per cent a measurement may be over its budget.
    margin: f64,
    /// The same for those that vary more.
    #[serde(default)]
    wider: BTreeMap<String, f64>,
    /// Below its budget by more than so many per cent it asks for a lower one.
    slack: f64,
    /// What was measured when the budget was set.
    budget: BTreeMap<String, f64>,
}

/// What a measurement is against its budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Within,
    /// So far below that the next regression would go unseen.
    Lower,
    Over,
    Unknown,
}

impl Budgets {
    /// The section of this name.
    pub fn read(section: &str) -> Result<Self, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/budgets.toml");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut sections: BTreeMap<String, Self> =
            toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        sections.remove(section).ok_or_else(|| format!("{}: no section {section}", path.display()))
    }

    fn verdict(&self, name: &str, measured: f64) -> Verdict {
        let margin = self.wider.get(name).copied().unwrap_or(self.margin);
        match self.budget.get(name) {
            None => Verdict::Unknown,
            Some(budget) if measured > budget * (1.0 + margin / 100.0) => Verdict::Over,
            Some(budget) if measured < budget * (1.0 - self.slack / 100.0) => Verdict::Lower,
            Some(_) => Verdict::Within,
        }
    }

    /// Prints every measurement with its budget and the verdict, as a Markdown table. A failure if one is over its budget, or has none, or if
    /// `all` were measured and a budget was not met with.
    pub fn judge(&self, unit: &str, measured: &[(String, f64)], all: bool) -> ExitCode {
        println!("| | {unit} | budget | | |");
        println!("|---|---:|---:|---:|---|");
        let (mut failed, mut changed) = (false, Vec::new());
        for (name, value) in measured {
            let budget = self.budget.get(name).copied().unwrap_or_default();
            let change = if budget > 0.0 { (value / budget - 1.0) * 100.0 } else { 0.0 };
            let verdict = self.verdict(name, *value);
            let said = match verdict {
                Verdict::Within => "within",
                Verdict::Lower => "far under: lower the budget",
                Verdict::Over => "OVER",
                Verdict::Unknown => "HAS NO BUDGET",
            };
            // Small numbers are of blocks.
            let digits = if *value < 100.0 { 2 } else { 0 };
            println!("| `{name}` | {value:.digits$} | {budget:.digits$} | {change:+.1} % | {said} |");
            failed |= matches!(verdict, Verdict::Over | Verdict::Unknown);
            if verdict != Verdict::Within {
                changed.push(format!("{name} = {value:.digits$}"));
            }
        }
        for name in self.budget.keys().filter(|name| all && !measured.iter().any(|(measured, _)| measured == *name)) {
            println!("| `{name}` | | | | IN THE BUDGETS, AND NOT MEASURED |");
            failed = true;
        }
        println!();
        println!("Over is more than {} % over the budget, far under more than {} % below.", self.margin, self.slack);
        for (name, margin) in &self.wider {
            println!("For `{name}`, which varies more, over is more than {margin} %.");
        }
        if !changed.is_empty() {
            println!("Where that is how it is to be from now on, benches/budgets.toml should say so:");
            changed.iter().for_each(|line| println!("    {line}"));
        }
        ExitCode::from(u8::from(failed))
    }
}
