//! Where values come from: command line, environment, file, defaults. The first that has one
//! counts. Every mistake is noted with its place; reading goes on after it.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

use super::ConfigMistake;
use super::keys::{self, Key, Value, Written};
use crate::cli::Serve;

/// What all variables of the environment begin with.
const PREFIX: &str = "STOMP_RELAY_";
/// Flags whose own name differs from their key's.
const ALIASES: [(&str, &str); 2] = [("BROKER", "broker.url"), ("STORE", "store.url")];

/// Who wrote a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Flag(&'static str),
    Variable(String),
    Line(usize),
}

/// All values that were written, and every mistake so far.
#[derive(Debug, Default)]
pub(super) struct Settings {
    values: BTreeMap<String, Value>,
    places: BTreeMap<String, Place>,
    /// Lengths of the lists of tables.
    lengths: BTreeMap<String, usize>,
    /// Tables and values of the file that were read, right or wrong.
    present: BTreeSet<String>,
    file: Option<String>,
    /// The file could not be read as a whole: what is not set is not known.
    pub(super) broken: bool,
    pub(super) dev: bool,
    pub(super) mistakes: Vec<ConfigMistake>,
    pub(super) warnings: Vec<String>,
}

impl Settings {
    /// Reads the file, then the environment over it, then the flags over both.
    pub(super) fn read(cli: &Serve, env: impl Iterator<Item = (String, String)>) -> Self {
        let mut settings = Self { dev: cli.dev, ..Self::default() };
        let variables: BTreeMap<String, String> = env
            .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value)))
            // An empty variable is how many tools write "not set".
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let file = match (&cli.config, variables.get("CONFIG")) {
            (Some(path), _) => Some(path.display().to_string()),
            (None, variable) => variable.cloned(),
        };
        if let Some(file) = file {
            settings.read_file(&file);
        }
        for (name, value) in &variables {
            settings.read_variable(name, value);
        }
        for (flag, name, value) in [
            ("--listen", "listen", &cli.listen),
            ("--admin-listen", "admin.listen", &cli.admin_listen),
            ("--tcp-listen", "tcp.listen", &cli.tcp_listen),
            ("--broker", "broker.url", &cli.broker),
            ("--store", "store.url", &cli.store),
        ] {
            if let (Some(value), Some(key)) = (value, keys::find(name)) {
                settings.set(name, Place::Flag(flag), key.kind.read_text(value));
            }
        }
        settings
    }

    /// The value of a key, which is its default where nobody wrote one.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.values.get(name) {
            return Some(value.clone());
        }
        let key = keys::find(&generic(name))?;
        key.kind.read_text(key.default?).ok()
    }

    /// The value that somebody wrote.
    pub(super) fn written(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            Value::List(_) | Value::Number(_) | Value::Time(_) | Value::Flag(_) | Value::Off => {
                None
            }
        }
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(texts)) => texts,
            _ => Vec::new(),
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Number(number) => Some(number),
            Value::Text(_) | Value::List(_) | Value::Time(_) | Value::Flag(_) | Value::Off => None,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Flag(true))
    }

    /// How many tables a list has.
    pub(super) fn length(&self, list: &str) -> usize {
        self.lengths.get(list).copied().unwrap_or(0)
    }

    /// Whether somebody wrote the table, or a key in it.
    pub(super) fn has(&self, section: &str) -> bool {
        let inside = |name: &String| {
            name.strip_prefix(section)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.present.iter().any(inside) || self.values.keys().any(inside)
    }

    /// Whether a required key is not there; one that is there and wrong was noted before.
    pub(super) fn needs(&self, name: &str) -> bool {
        !self.values.contains_key(name) && !self.places.contains_key(name)
    }

    /// Notes a mistake at the place where the key was written, or its table.
    pub(super) fn mistake(&mut self, name: &str, text: impl Into<String>) {
        let mut at = name;
        let place = loop {
            match self.places.get(at) {
                None if at.contains('.') => at = keys::section_of(at),
                place => break place.cloned(),
            }
        };
        let key = generic(name).replace("[]", "");
        let mut mistake = ConfigMistake { file: None, line: None, key, text: text.into() };
        match place {
            Some(Place::Line(line)) => {
                mistake.file.clone_from(&self.file);
                mistake.line = Some(line);
            }
            Some(Place::Variable(variable)) => mistake.key += &format!(" ({PREFIX}{variable})"),
            Some(Place::Flag(flag)) => mistake.key += &format!(" ({flag})"),
            None => mistake.file.clone_from(&self.file),
        }
        self.mistakes.push(mistake);
    }

    fn set(&mut self, name: &str, place: Place, value: Result<Value, String>) {
        self.places.insert(name.to_owned(), place);
        match value {
            Ok(value) => {
                self.values.insert(name.to_owned(), value);
            }
            Err(text) => self.mistake(name, text),
        }
    }

    fn read_variable(&mut self, name: &str, value: &str) {
        let key = keys::KEYS
            .iter()
            .find(|key| !key.name.contains("[]") && keys::variable(key.name) == name);
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        match (key, alias, name) {
            (Some(key), _, _) => self.set_variable(key, name, value),
            // The key's own variable counts more than the flag's.
            (None, Some((_, target)), _) => {
                if let Some(key) = keys::find(target)
                    && !matches!(self.places.get(*target), Some(Place::Variable(_)))
                {
                    self.set_variable(key, name, value);
                }
            }
            (None, None, "CONFIG") => {}
            (None, None, "DEV") => match value {
                "true" | "1" => self.dev = true,
                "false" | "0" => {}
                _ => self.mistakes.push(ConfigMistake {
                    file: None,
                    line: None,
                    key: format!("{PREFIX}DEV"),
                    text: format!("is {value:?}, but takes true or false"),
                }),
            },
            (None, None, _) => self.unknown_variable(name),
        }
    }

    fn set_variable(&mut self, key: &Key, name: &str, value: &str) {
        self.set(key.name, Place::Variable(name.to_owned()), key.kind.read_text(value));
    }

    /// Others may use the prefix too (Kubernetes does, for a service of that name), so that only
    /// what looks like a slip of the pen is a mistake.
    fn unknown_variable(&mut self, name: &str) {
        // The log's level is no key: it is needed before there is a config.
        if name == "LOG" {
            return;
        }
        let near = keys::KEYS
            .iter()
            .map(|key| keys::variable(key.name))
            .find(|known| strsim::damerau_levenshtein(known, name) <= 2);
        match near {
            Some(known) => self.mistakes.push(ConfigMistake {
                file: None,
                line: None,
                key: format!("{PREFIX}{name}"),
                text: format!("unknown variable; did you mean {PREFIX}{known}?"),
            }),
            None => self.warnings.push(format!("{PREFIX}{name} is set, but no key has that name")),
        }
    }

    fn read_file(&mut self, path: &str) {
        self.file = Some(path.to_owned());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.broken = true;
                let text = format!("cannot be read: {error}");
                self.mistakes.push(ConfigMistake {
                    file: Some(path.to_owned()),
                    line: None,
                    key: "--config".into(),
                    text,
                });
                return;
            }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            self.syntax(&text, error);
        }
        // What is left of a broken file would bring mistakes that nobody made.
        self.broken = !errors.is_empty();
        if !self.broken {
            self.walk(&text, table.get_ref(), "");
        }
    }

    fn syntax(&mut self, text: &str, error: &Error) {
        let line = error.span().map(|span| line_of(text, span.start));
        self.mistakes.push(ConfigMistake {
            file: self.file.clone(),
            line,
            key: "not TOML".into(),
            text: error.message().trim().replace('\n', "; "),
        });
    }

    fn walk(&mut self, text: &str, table: &DeTable<'_>, prefix: &str) {
        for (key, node) in table {
            let name = if prefix.is_empty() {
                key.get_ref().clone().into_owned()
            } else {
                format!("{prefix}.{}", key.get_ref())
            };
            let line = Place::Line(line_of(text, key.span().start));
            let known = generic(&name);
            self.present.insert(name.clone());
            if let Some(key) = keys::find(&known) {
                let value = written(node.get_ref()).and_then(|written| key.kind.read(written));
                self.set(&name, line, value);
                continue;
            }
            self.places.insert(name.clone(), line);
            match node.get_ref() {
                DeValue::Table(inner) if keys::is_section(&known) => self.walk(text, inner, &name),
                DeValue::Array(elements) if keys::is_list(&known) => {
                    self.walk_list(text, elements.iter(), &name);
                }
                _ if keys::is_list(&known) => {
                    self.mistake(&name, format!("is a list of tables: [[{known}]]"));
                }
                _ if keys::is_section(&known) => {
                    self.mistake(&name, format!("is a table: [{known}]"));
                }
                _ => self.unknown(&name, &known),
            }
        }
    }

    fn walk_list<'a>(
        &mut self,
        text: &str,
        elements: impl Iterator<Item = &'a Spanned<DeValue<'a>>>,
        list: &str,
    ) {
        for (index, element) in elements.enumerate() {
            let name = format!("{list}[{index}]");
            let line = Place::Line(line_of(text, element.span().start));
            self.places.insert(name.clone(), line);
            self.lengths.insert(list.to_owned(), index + 1);
            let DeValue::Table(inner) = element.get_ref() else {
                // Without a length nothing of the list is read.
                self.lengths.remove(list);
                return self.mistake(&name, format!("is a list of tables: [[{list}]]"));
            };
            self.walk(text, inner, &name);
        }
    }

    fn unknown(&mut self, name: &str, known: &str) {
        let text = match keys::nearest(&known.replace("[]", "")) {
            Some(near) => format!("unknown key; did you mean {near}?"),
            None => "unknown key".into(),
        };
        self.mistake(name, text);
    }
}

/// The name with `[]` for every `[7]`.
pub(super) fn generic(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        let (number, tail) = after.split_once(']').unwrap_or((after, ""));
        // Only what this file wrote itself: a quoted key may have brackets of its own.
        out.push_str(if number.bytes().all(|b| b.is_ascii_digit()) { "[]" } else { "[?]" });
        rest = tail;
    }
    out + rest
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn written<'a>(node: &'a DeValue<'_>) -> Result<Written<'a>, String> {
    Ok(match node {
        DeValue::String(text) => Written::Text(text),
        DeValue::Integer(number) => match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Written::Number(number),
            Err(_) => Written::Other("no whole number from 0 to 2^64"),
        },
        DeValue::Float(_) => Written::Other("a number with a fraction"),
        DeValue::Boolean(flag) => Written::Flag(*flag),
        DeValue::Datetime(_) => Written::Other("a date"),
        DeValue::Table(_) => Written::Other("a table"),
        DeValue::Array(elements) => {
            let texts = elements.iter().map(|element| match element.get_ref() {
                DeValue::String(text) if !text.is_empty() => Ok(text.clone().into_owned()),
                DeValue::String(_) => Err("has an empty text in its list".to_owned()),
                other => Err(format!("has {} in its list of texts", other.type_str())),
            });
            Written::List(texts.collect::<Result<_, _>>()?)
        }
    })
}
