//! `ferrogate explain TASK`: why it did not start or does not answer, and what to do.

use anyhow::{Result, bail};
use ferrogate_explain::{Explanation, Finding, Weight};
use serde_json::Value;

use crate::Explain;
use crate::client::{Ask, ask};
use crate::data::DataDir;

/// Of a terminal that does not say.
const WIDTH: usize = 100;

pub(crate) fn run(options: &Explain) -> Result<()> {
    let data = DataDir::new(&options.place.data_dir)?;
    let task = super::block_on(super::logs::find(&data, &options.task))?;
    let arn = task["taskArn"].as_str().unwrap_or_default().to_owned();
    let answer = ask(&data, &Ask::Explain { task_arn: arn })?;
    if let Some(error) = answer["error"].as_str() {
        bail!("{error}");
    }
    if options.output == "json" {
        println!("{answer:#}");
        return Ok(());
    }
    print!("{}", text(&serde_json::from_value::<Explanation>(answer)?, &task));
    Ok(())
}

fn text(explanation: &Explanation, task: &Value) -> String {
    let id = explanation.task_arn.rsplit('/').next().unwrap_or_default();
    let definition =
        task["taskDefinitionArn"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let mut text = format!("{id}  {definition}\n{}\n", explanation.state);
    for finding in &explanation.findings {
        text.push('\n');
        text.push_str(&one(finding));
    }
    text
}

fn one(finding: &Finding) -> String {
    let sign = match finding.weight {
        Weight::Cause => "✗",
        Weight::Obstacle => "!",
        Weight::Note => "·",
    };
    let head = format!("{} {}: ", sign, finding.about.as_str());
    let mut text = wrapped(&head, "  ", &finding.what);
    for evidence in &finding.evidence {
        for line in evidence.lines() {
            text.push_str(&wrapped("    | ", "    | ", line));
        }
    }
    for fix in &finding.fix {
        // A command is not broken up: it is there to be copied.
        match fix.starts_with("aws ") || fix.starts_with("ferrogate ") {
            true => text.push_str(&format!("    → {fix}\n")),
            false => text.push_str(&wrapped("    → ", "      ", fix)),
        }
    }
    text
}

fn wrapped(first: &str, next: &str, words: &str) -> String {
    let mut text = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line = next.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    text.push_str(line.trim_end());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_words_and_commands_are_not() {
        let long = "word ".repeat(40);
        assert!(wrapped("* ", "  ", &long).lines().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(wrapped("* ", "  ", &long).split_whitespace().count(), 41);
        let finding = Finding {
            weight: Weight::Cause,
            about: ferrogate_explain::About::Logs,
            what: "It is so.".into(),
            evidence: vec!["a\nb".into()],
            fix: vec![format!("aws logs {long}"), "Do it.".into()],
        };
        let text = one(&finding);
        assert!(text.starts_with("✗ logs: It is so.\n    | a\n    | b\n    → aws logs word"), "{text}");
        assert!(text.ends_with("\n    → Do it.\n"), "{text}");
        assert_eq!(text.lines().count(), 5);
    }
}
