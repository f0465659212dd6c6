//! The words of EC2's query protocol: parameters in a form, answers in XML.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::{
    failure::Failure,
    policy::{Tags, is_like},
};

/// The parameters of a call. What nobody asked for by the end is refused.
#[derive(Debug)]
pub struct Parameters {
    given: BTreeMap<String, String>,
    asked: BTreeSet<String>,
}

impl Parameters {
    /// Reads a form.
    ///
    /// # Errors
    /// A parameter is given twice.
    pub fn parse(form: &[u8]) -> Result<Self, Failure> {
        let mut given = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(form) {
            if given.insert(name.to_string(), value.into_owned()).is_some() {
                return Err(Failure::invalid(format!("The parameter {name} may only be specified once")));
            }
        }
        Ok(Self { given, asked: BTreeSet::new() })
    }

    /// A parameter that may be left out.
    pub fn get(&mut self, name: &str) -> Option<String> {
        self.asked.insert(name.to_owned());
        self.given.get(name).cloned()
    }

    /// A parameter that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn require(&mut self, name: &str) -> Result<String, Failure> {
        let missing =
            || Failure::new(400, "MissingParameter", format!("The request must contain the parameter {name}"));
        self.get(name).ok_or_else(missing)
    }

    /// What a call is called that asked before, so that it makes nothing twice.
    ///
    /// # Errors
    /// It is too long, or not of printable ASCII.
    pub fn client_token(&mut self) -> Result<Option<String>, Failure> {
        let token = self.get("ClientToken");
        match &token {
            Some(token) if !is_client_token(token) => {
                Err(Failure::invalid("A client token is at most 64 printable characters of ASCII"))
            }
            _ => Ok(token),
        }
    }

    /// A description, which may be left out.
    ///
    /// # Errors
    /// It is too long.
    pub fn description(&mut self) -> Result<String, Failure> {
        let description = self.get("Description").unwrap_or_default();
        if description.chars().count() > 255 {
            return Err(Failure::invalid("A description is at most 255 characters"));
        }
        Ok(description)
    }

    /// A parameter that the service would have a default for, and that can only be this here.
    ///
    /// # Errors
    /// It is missing, or another.
    pub fn only(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        match self.get(name) {
            Some(given) if given == value => Ok(()),
            given => {
                let message = format!("{name} is {given:?}, and this twin knows '{value}' only");
                Err(Failure::new(400, "UnsupportedByTwin", message))
            }
        }
    }

    /// A number that may be left out.
    ///
    /// # Errors
    /// It is none, or outside.
    pub fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = || Failure::invalid(format!("Value ({text}) for parameter {name} is invalid. It is {range:?}"));
        text.parse().ok().filter(|number| range.contains(number)).map(Some).ok_or_else(wrong)
    }

    /// A truth that may be left out.
    ///
    /// # Errors
    /// It is neither.
    pub fn truth(&mut self, name: &str) -> Result<Option<bool>, Failure> {
        match self.get(name).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Failure::invalid(format!("Value ({other}) for parameter {name} is invalid"))),
        }
    }

    /// The values of `NAME.1`, `NAME.2` and so on.
    pub fn list(&mut self, name: &str) -> Vec<String> {
        (1..).map_while(|number| self.get(&format!("{name}.{number}"))).collect()
    }

    /// How many of `NAME.1.SOMETHING`, `NAME.2.SOMETHING` there are.
    pub fn count(&self, name: &str) -> u32 {
        let is_there = |number: &u32| self.given.keys().any(|given| given.starts_with(&format!("{name}.{number}.")));
        (1..).take_while(is_there).count().try_into().unwrap_or(u32::MAX)
    }

    /// The tags of `TagSpecification.N` for each kind of resource.
    ///
    /// # Errors
    /// A tag breaks a rule, or a kind is not one of these.
    pub fn tag_specifications(&mut self, kinds: &[&str]) -> Result<BTreeMap<String, Tags>, Failure> {
        let mut found = BTreeMap::new();
        for number in 1..=self.count("TagSpecification") {
            let name = format!("TagSpecification.{number}");
            let kind = self.require(&format!("{name}.ResourceType"))?;
            if !kinds.contains(&kind.as_str()) {
                return Err(Failure::invalid(format!(
                    "'{kind}' is not a valid taggable resource type for this operation"
                )));
            }
            let tags = self.tags(&format!("{name}.Tag"))?;
            found.insert(kind, tags);
        }
        Ok(found)
    }

    /// The tags of `NAME.N.Key` and `NAME.N.Value`.
    ///
    /// # Errors
    /// One breaks a rule.
    pub fn tags(&mut self, name: &str) -> Result<Tags, Failure> {
        let mut tags = Tags::new();
        for number in 1..=self.count(name) {
            let key = self.require(&format!("{name}.{number}.Key"))?;
            let value = self.get(&format!("{name}.{number}.Value")).unwrap_or_default();
            tags.insert(key, value);
        }
        check_tags(&tags)?;
        Ok(tags)
    }

    /// The filters, each with the values of which one must fit: of tags, and of these.
    ///
    /// # Errors
    /// A filter has no name, or another.
    pub fn filters(&mut self, known: &[&str]) -> Result<Vec<(String, Vec<String>)>, Failure> {
        let mut filters = Vec::new();
        for number in 1..=self.count("Filter") {
            let name = self.require(&format!("Filter.{number}.Name"))?;
            if !known.contains(&name.as_str()) && name != "tag-key" && !name.starts_with("tag:") {
                return Err(Failure::invalid(format!("The filter '{name}' is invalid")));
            }
            filters.push((name, self.list(&format!("Filter.{number}.Value"))));
        }
        Ok(filters)
    }

    /// That all of them were understood.
    ///
    /// # Errors
    /// One was not.
    pub fn finish(&self) -> Result<(), Failure> {
        match self.given.keys().find(|name| !self.asked.contains(*name)) {
            Some(name) => Err(Failure::new(400, "UnknownParameter", format!("The parameter {name} is not recognized"))),
            None => Ok(()),
        }
    }

    /// All of them but these, as one text: whether two calls ask for the same.
    pub fn text_without(&self, names: &[&str]) -> String {
        let others = self.given.iter().filter(|(given, _)| !names.contains(&given.as_str()));
        others.map(|(name, value)| format!("{name}={value}\n")).collect()
    }
}

/// Whether it can name a call.
pub fn is_client_token(token: &str) -> bool {
    token.len() <= 64 && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The rules for tags.
///
/// # Errors
/// One breaks them.
pub fn check_tags(tags: &Tags) -> Result<(), Failure> {
    if tags.len() > 50 {
        return Err(Failure::new(400, "TagLimitExceeded", "A resource has at most 50 tags"));
    }
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > 127 || value.chars().count() > 255 {
            return Err(Failure::invalid(format!("Tag key '{key}' or its value has a wrong length")));
        }
        if key.starts_with("aws:") {
            return Err(Failure::invalid("Tag keys starting with 'aws:' are reserved for internal use"));
        }
    }
    Ok(())
}

/// Whether a thing passes the filters. `attribute` gives its values for a filter's name.
pub fn passes(filters: &[(String, Vec<String>)], tags: &Tags, attribute: impl Fn(&str) -> Vec<String>) -> bool {
    filters.iter().all(|(name, values)| {
        let found = match (name.strip_prefix("tag:"), name.as_str()) {
            (Some(key), _) => tags.get(key).cloned().into_iter().collect(),
            (None, "tag-key") => tags.keys().cloned().collect(),
            (None, name) => attribute(name),
        };
        values.iter().any(|pattern| found.iter().any(|value| is_like(pattern, value)))
    })
}

/// A piece of an answer.
#[derive(Debug, Clone)]
pub enum Node {
    /// Text.
    Text(String),
    /// Each in an `item`.
    List(Vec<Node>),
    /// By name.
    Fields(Vec<(&'static str, Node)>),
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Node {
    fn from(truth: bool) -> Self {
        Self::Text(truth.to_string())
    }
}

impl From<u32> for Node {
    fn from(number: u32) -> Self {
        Self::Text(number.to_string())
    }
}

/// The tags of a thing.
pub fn tag_set(tags: &Tags) -> Node {
    let item = |(key, value): (&String, &String)| {
        Node::Fields(vec![("key", key.clone().into()), ("value", value.clone().into())])
    };
    Node::List(tags.iter().map(item).collect())
}

impl Node {
    /// Writes it as XML.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Text(text) => out.push_str(&escaped(text)),
            Self::List(items) => items.iter().for_each(|item| element(out, "item", item)),
            Self::Fields(fields) => fields.iter().for_each(|(name, node)| element(out, name, node)),
        }
    }
}

fn element(out: &mut String, name: &str, node: &Node) {
    // Writing to a String does not fail.
    let _ = write!(out, "<{name}>");
    node.write(out);
    let _ = write!(out, "</{name}>");
}

/// As XML wants it.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
