//! Which parameters a source file refuses by name.
//!
//! Read as text, and exactly: a refusing call says what it refuses in a literal, in a table of (what, whether it is
//! there), or in a variable whose values stand in the same file. One that does not is an error of the generator, so that
//! nothing is refused without being told.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

/// They take what is refused; `not_here` hands it on.
const CALLS: [&str; 4] = ["unsupported", "unsupported_feature", "not_on_fargate", "not_here"];
/// Tables whose refusal has words of its own; those of others are what `refuse` is given.
const TABLES: [&str; 2] = ["refused", "given"];
/// Refusals by neither: what is refused stands between the two.
const WORDS: [(&str, &str); 5] = [
    ("Ferrogate does not support ", " yet"),
    ("Ferrogate does not serve ", " yet"),
    ("", " is not supported by Ferrogate"),
    ("", ": Ferrogate supports '"),
    ("", ": Ferrogate has '"),
];

/// What the file refuses, as people read it.
pub(crate) fn of(source: &str) -> Result<BTreeSet<String>> {
    let file = File::read(source);
    let mut names = Vec::new();
    for at in CALLS.iter().flat_map(|call| file.calls(call)) {
        names.extend(file.argument(at)?);
    }
    for at in file.calls("refuse") {
        names.extend(file.table_given(at)?);
    }
    names.extend(TABLES.iter().flat_map(|table| file.table(table)));
    for literal in &file.literals {
        for (before, after) in WORDS {
            if let Some((_, rest)) = literal.text.split_once(before)
                && let Some((what, _)) = rest.split_once(after)
            {
                names.extend(file.filled(literal.begin, what));
            }
        }
    }
    // The balancers' attributes that can be read and have one value.
    for at in file.calls("attribute") {
        let end = file.closing(at);
        if file.text[at..end].contains("Values::Fixed")
            && let [key, default] = &*file.within(at, end).map(|literal| &*literal.text).collect::<Vec<_>>()
        {
            names.push(format!("{key} (other than '{default}')"));
        }
    }
    let names = names.into_iter().map(|name| name.replace('\'', ""));
    Ok(names.filter(|name| name.chars().any(char::is_alphabetic)).collect())
}

/// A file's code without comments and tests.
struct File {
    text: String,
    literals: Vec<Literal>,
}

/// A string: from its first quote to behind its last, and what is in it.
struct Literal {
    begin: usize,
    end: usize,
    text: String,
}

/// How the values of a variable stand behind the words that bind it.
enum Bound {
    /// `= "…"`, `= format!("…")`
    Text,
    /// `("a" | "b")`, `["a", "b"]`
    List,
    /// `[(…, "a"), (…, "b")]`
    Rows,
    /// `table.iter()…`
    Table,
}

impl File {
    fn read(source: &str) -> Self {
        let mut file = Self { text: String::new(), literals: Vec::new() };
        let mut rest = source.split("#[cfg(test)]").next().unwrap_or_default();
        while let Some(next) = rest.chars().next() {
            let mut ahead = rest.chars().skip(1);
            let raw = ["r#\"", "r\""].into_iter().find(|raw| rest.starts_with(raw));
            let taken = if rest.starts_with("//") {
                rest.find('\n').unwrap_or(rest.len())
            } else if let Some(raw) = raw.filter(|_| !file.text.ends_with(is_of_a_name)) {
                let close: String = raw[1..].chars().rev().collect();
                let end = rest[raw.len()..].find(&close).map_or(rest.len(), |at| raw.len() + at);
                file.literal(rest[raw.len()..end].to_owned());
                (end + close.len()).min(rest.len())
            } else if next == '"' {
                let end = closing_quote(rest);
                // A line that goes on in the next begins there with what is no space.
                let text = rest[1..end].split("\\\n").enumerate();
                let text = text.map(|(at, line)| if at == 0 { line } else { line.trim_start() });
                file.literal(text.collect());
                (end + 1).min(rest.len())
            } else if next == '\'' && (ahead.next() == Some('\\') || ahead.next() == Some('\'')) {
                // A character: no bracket or quote in it is one of the code's.
                file.text.push_str("' '");
                let behind = if rest.starts_with("'\\") { 3 } else { 2 };
                let from = rest.char_indices().nth(behind).map_or(rest.len(), |(at, _)| at);
                rest[from..].find('\'').map_or(rest.len(), |end| from + end + 1)
            } else {
                file.text.push(next);
                next.len_utf8()
            };
            rest = &rest[taken..];
        }
        file
    }

    fn literal(&mut self, text: String) {
        let begin = self.text.len();
        self.text.push_str("\"\"");
        self.literals.push(Literal { begin, end: begin + 2, text });
    }

    fn within(&self, begin: usize, end: usize) -> impl Iterator<Item = &Literal> {
        self.literals.iter().filter(move |literal| literal.begin >= begin && literal.end <= end)
    }

    /// Where the arguments of each call begin, behind its parenthesis.
    fn calls(&self, name: &str) -> Vec<usize> {
        let call = format!("{name}(");
        let mut found = self.behind(&call);
        found.retain(|at| {
            let before = &self.text[..at - call.len()];
            !before.ends_with(is_of_a_name) && !before.ends_with("fn ")
        });
        found
    }

    /// Wherever these words end.
    fn behind(&self, words: &str) -> Vec<usize> {
        self.text.match_indices(words).map(|(at, _)| at + words.len()).collect()
    }

    /// Where the bracket closes behind which `at` stands.
    fn closing(&self, at: usize) -> usize {
        let mut depth = 0;
        for (offset, byte) in self.text[at..].bytes().enumerate() {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' if depth == 0 => return at + offset,
                b')' | b']' | b'}' => depth -= 1,
                _ => {}
            }
        }
        self.text.len()
    }

    /// What the call refuses whose arguments begin at `at`.
    fn argument(&self, at: usize) -> Result<Vec<String>> {
        let end = self.closing(at);
        if let Some(literal) = self.within(at, end).next() {
            return Ok(self.filled(literal.begin, &literal.text));
        }
        let name = self.text[at..end].trim().trim_start_matches('&');
        let function = self.text[..at].rsplit("fn ").next().unwrap_or_default();
        match self.values(at, name) {
            Some(values) => Ok(values),
            // Something else of that name; or a call that hands on what another was given.
            None if name.is_empty() || CALLS.iter().any(|call| function.starts_with(&format!("{call}("))) => {
                Ok(Vec::new())
            }
            None => bail!("what is refused by '{name}' cannot be read: write a literal or a table there"),
        }
    }

    /// `refuse(&[("a", …), …])`, `refuse(&table)`; functions of that name that take no table are no concern.
    fn table_given(&self, at: usize) -> Result<Vec<String>> {
        let given = &self.text[at..self.closing(at)];
        if given.starts_with("&[") {
            return Ok(self.rows(at + 2, |literals| literals.next()));
        }
        let Some(name) = given.strip_prefix('&').filter(|name| !name.starts_with("input")) else {
            return Ok(Vec::new());
        };
        match self.table(name.rsplit('.').next().unwrap_or_default()) {
            names if names.is_empty() => bail!("no table '{name}' is in the file that refuses by it"),
            names => Ok(names),
        }
    }

    /// All tables of that name.
    fn table(&self, name: &str) -> Vec<String> {
        let behind = |words: String| self.behind(&words);
        let all = [behind(format!(" {name} = [")), behind(format!(" {name}: ["))].concat();
        all.into_iter().flat_map(|at| self.rows(at, |literals| literals.next())).collect()
    }

    /// One literal of each row of the table that begins at `at`.
    fn rows<'a>(
        &'a self,
        at: usize,
        which: impl Fn(&mut dyn Iterator<Item = &'a Literal>) -> Option<&'a Literal>,
    ) -> Vec<String> {
        let end = self.closing(at);
        let (mut names, mut from) = (Vec::new(), at);
        while let Some(open) = self.text[from..end].find('(') {
            let begin = from + open + 1;
            from = self.closing(begin);
            if let Some(literal) = which(&mut self.within(begin, from)) {
                names.extend(self.filled(literal.begin, &literal.text));
            }
        }
        names
    }

    /// The values a variable can have at `at`, where its last binding before says them.
    fn values(&self, at: usize, name: &str) -> Option<Vec<String>> {
        let before = &self.text[..at];
        let (begin, bound) = [
            (format!("let {name} = "), Bound::Text),
            (format!("const {name}: &str = "), Bound::Text),
            (format!(" {name} @ ("), Bound::List),
            (format!("for {name} in ["), Bound::List),
            (format!(", {name}) in ["), Bound::Rows),
            (format!("Some(({name}, _)) = "), Bound::Table),
        ]
        .into_iter()
        .filter_map(|(words, bound)| Some((before.rfind(&words)? + words.len(), bound)))
        .max_by_key(|(begin, _)| *begin)?;
        let here = &self.text[begin..];
        match bound {
            Bound::Text => {
                let is_text = here.starts_with('"') || here.starts_with("format!(");
                let literal = self.literals.iter().find(|literal| literal.begin >= begin)?;
                is_text.then(|| self.filled(literal.begin, &literal.text))
            }
            Bound::List => {
                Some(self.within(begin, self.closing(begin)).map(|literal| literal.text.clone()).collect())
            }
            Bound::Rows => Some(self.rows(begin, |literals| literals.last())),
            Bound::Table => Some(self.table(here.split(|c| !is_of_a_name(c)).next()?)),
        }
    }

    /// The text with what its variables can be; `…` for what nobody can know: `mode '{mode}'` → `mode '…'`.
    fn filled(&self, at: usize, text: &str) -> Vec<String> {
        let Some((before, rest)) = text.split_once('{') else { return vec![text.to_owned()] };
        let Some((name, after)) = rest.split_once('}') else { return vec![text.to_owned()] };
        let values = self.values(at, name).unwrap_or_else(|| vec!["…".to_owned()]);
        let rests = self.filled(at, after);
        let pairs = values.iter().flat_map(|value| rests.iter().map(move |rest| (value, rest)));
        pairs.map(|(value, rest)| format!("{before}{value}{rest}")).collect()
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Of a text that begins with a quote.
fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::of;

    fn found(source: &str) -> Vec<String> {
        of(source).unwrap().into_iter().collect()
    }

    #[test]
    fn calls_and_tables_over_several_lines() {
        let source = r#"
            // return Err(unsupported("of a comment"));
            return Err(errors::unsupported("kmsKeyId"));
            refuse(&[("a", x.is_some()), ("b", x.as_deref() == Some("on"))])?;
            refuse(&[(
                "configuration.managedStorageConfiguration",
                configuration.managed_storage_configuration.is_some(),
            )])?;
            let of_hosts = [
                ("dockerVolumeConfiguration", volume.docker.is_some()),
                (
                    "fsxConfiguration",
                    volume.fsx.is_some(),
                ),
            ];
            if let Some((what, _)) = of_hosts.iter().find(|(_, present)| *present) {
                return Err(super::fargate::not_on_fargate(what));
            }
            let given = [input.a.is_some(), input.b.is_some()];
            #[cfg(test)]
            mod tests { fn t() { unsupported("of a test"); } }
        "#;
        let names = [
            "a",
            "b",
            "configuration.managedStorageConfiguration",
            "dockerVolumeConfiguration",
            "fsxConfiguration",
            "kmsKeyId",
        ];
        assert_eq!(found(source), names);
    }

    #[test]
    fn variables_are_followed() {
        let source = r#"
            match driver { driver @ ("splunk" | "awsfirelens") => Err(unsupported(&format!("the log driver '{driver}'"))) }
            let of = "configuration.x";
            refuse(&[(&*format!("{of}.kmsKeyId"), is_set(&exec.kms_key_id))])?;
            for (present, what) in [(shape.a == Some("b"), "latency routing"), (shape.c, "failover routing")] {
                if present { return Err(unsupported(what)); }
            }
            Some(mode) => Err(unsupported(&format!("the mode '{mode}', with ')' in it"))),
            let words = format!("Ferrogate does not support the KeyId '{key}' yet; leave it out.");
        "#;
        let names = [
            "configuration.x.kmsKeyId",
            "failover routing",
            "latency routing",
            "the KeyId …",
            "the log driver awsfirelens",
            "the log driver splunk",
            "the mode …, with ) in it",
        ];
        assert_eq!(found(source), names);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let error = of("fn f(what: &str) { Err(unsupported(what)) }").unwrap_err().to_string();
        assert!(error.contains("'what'"), "{error}");
        assert!(of("fn not_here(what: &str) { Err(unsupported(what)) }").unwrap().is_empty());
        assert!(of("refuse(&elsewhere)?;").is_err());
    }
}
