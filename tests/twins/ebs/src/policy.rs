//! Who may do what: IAM policies, as far as the pages of Farshore's documentation use them. What a policy says that is not
//! understood here is an error when it is read, so that no test passes because half of it was ignored.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// Names and values.
pub type Tags = BTreeMap<String, String>;

/// A policy document.
#[derive(Debug, Clone, Default)]
pub struct Policy(Vec<Statement>);

#[derive(Debug, Clone)]
struct Statement {
    allows: bool,
    actions: Vec<String>,
    resources: Vec<String>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone)]
struct Condition {
    operator: Operator,
    key: String,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Operator {
    StringEquals,
    StringNotEquals,
    StringLike,
    ArnEquals,
    ArnLike,
    ArnNotEquals,
    #[serde(rename = "ForAllValues:StringEquals")]
    ForAllValuesStringEquals,
}

/// One thing that somebody wants to do to one resource.
#[derive(Debug, Clone, Default)]
pub struct Ask<'a> {
    /// Such as `ec2:CreateSnapshots`.
    pub action: &'a str,
    /// The resource's name.
    pub resource: String,
    /// The tags of a resource that is there.
    pub resource_tags: Option<&'a Tags>,
    /// The tags that the request gives.
    pub request_tags: Option<&'a Tags>,
    /// What else conditions may ask for: `ebs:ParentSnapshot`, `ec2:CreateAction`, `ec2:Subnet`.
    pub context: Vec<(&'static str, String)>,
}

impl Policy {
    /// Everything is allowed.
    pub fn everything() -> Self {
        let all = || vec!["*".to_owned()];
        Self(vec![Statement { allows: true, actions: all(), resources: all(), conditions: Vec::new() }])
    }

    /// Reads a policy document.
    ///
    /// # Errors
    /// It is none, or says what is not understood here.
    pub fn parse(text: &str) -> Result<Self> {
        let document: Value = serde_json::from_str(text).context("the policy is no JSON")?;
        known(&document, &["Version", "Statement", "Id"])?;
        ensure!(document["Version"] == "2012-10-17", "the policy's version is not 2012-10-17");
        let statements = document["Statement"].as_array().context("the policy has no list of statements")?;
        Ok(Self(statements.iter().map(Statement::parse).collect::<Result<_>>()?))
    }

    /// Whether it is allowed: somewhere allowed, and nowhere denied.
    pub fn allows(&self, ask: &Ask<'_>) -> bool {
        let matching: Vec<&Statement> = self.0.iter().filter(|statement| statement.matches(ask)).collect();
        !matching.is_empty() && matching.iter().all(|statement| statement.allows)
    }
}

fn known(value: &Value, names: &[&str]) -> Result<()> {
    let fields = value.as_object().context("an object was expected")?;
    match fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => bail!("`{name}` is not understood by this twin"),
        None => Ok(()),
    }
}

fn strings(value: &Value) -> Result<Vec<String>> {
    let text = |value: &Value| {
        let text = value.as_str().context("a string was expected")?;
        ensure!(!text.contains("${"), "the variable in `{text}` is not understood by this twin");
        Ok(text.to_owned())
    };
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => Ok(vec![text(value)?]),
    }
}

impl Statement {
    fn parse(value: &Value) -> Result<Self> {
        known(value, &["Sid", "Effect", "Action", "Resource", "Condition"])?;
        let allows = match value["Effect"].as_str() {
            Some("Allow") => true,
            Some("Deny") => false,
            effect => bail!("the effect {effect:?} is none"),
        };
        let mut conditions = Vec::new();
        let none = serde_json::Map::new();
        let given = match value.get("Condition") {
            None => &none,
            Some(given) => given.as_object().context("a condition is an object")?,
        };
        for (operator, of) in given {
            let read: Operator = serde_json::from_value(Value::String(operator.clone()))
                .with_context(|| format!("the condition `{operator}` is not understood by this twin"))?;
            for (key, values) in of.as_object().context("a condition is an object")? {
                let is_known = ["aws:ResourceTag/", "ec2:ResourceTag/", "aws:RequestTag/"]
                    .iter()
                    .any(|known| key.starts_with(known))
                    || ["aws:TagKeys", "ebs:ParentSnapshot", "ec2:CreateAction", "ec2:Subnet"].contains(&key.as_str());
                ensure!(is_known, "the condition key `{key}` is not understood by this twin");
                conditions.push(Condition { operator: read, key: key.clone(), values: strings(values)? });
            }
        }
        Ok(Self { allows, actions: strings(&value["Action"])?, resources: strings(&value["Resource"])?, conditions })
    }

    fn matches(&self, ask: &Ask<'_>) -> bool {
        self.actions.iter().any(|pattern| is_like(&pattern.to_lowercase(), &ask.action.to_lowercase()))
            && self.resources.iter().any(|pattern| is_like(pattern, &ask.resource))
            && self.conditions.iter().all(|condition| condition.holds(ask))
    }
}

impl Condition {
    fn holds(&self, ask: &Ask<'_>) -> bool {
        let of_resource = ["aws:ResourceTag/", "ec2:ResourceTag/"].iter().find_map(|of| self.key.strip_prefix(of));
        let found: Vec<String> = if let Some(name) = of_resource {
            named(ask.resource_tags, name)
        } else if let Some(name) = self.key.strip_prefix("aws:RequestTag/") {
            named(ask.request_tags, name)
        } else if self.key == "aws:TagKeys" {
            ask.request_tags.into_iter().flat_map(|tags| tags.keys().cloned()).collect()
        } else {
            ask.context.iter().filter(|(key, _)| *key == self.key).map(|(_, value)| value.clone()).collect()
        };
        let is_equal = |value: &String| self.values.contains(value);
        let is_alike = |value: &String| self.values.iter().any(|pattern| is_like(pattern, value));
        match self.operator {
            Operator::StringEquals => found.iter().any(is_equal),
            Operator::StringNotEquals => !found.iter().any(is_equal),
            Operator::StringLike | Operator::ArnEquals | Operator::ArnLike => found.iter().any(is_alike),
            Operator::ArnNotEquals => !found.iter().any(is_alike),
            Operator::ForAllValuesStringEquals => found.iter().all(is_equal),
        }
    }
}

/// The values of a tag. In the name of a condition's key IAM does not look at upper and lower case, in tags EC2 does.
fn named(tags: Option<&Tags>, name: &str) -> Vec<String> {
    let is_named = |(known, _): &(&String, &String)| known.eq_ignore_ascii_case(name);
    tags.into_iter().flatten().filter(is_named).map(|(_, value)| value.clone()).collect()
}

/// Whether a text is like a pattern, in which `*` stands for anything and `?` for one character.
pub fn is_like(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.chars();
    match pattern.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = pattern.as_str();
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .any(|at| is_like(rest, text.get(at..).unwrap_or("")))
        }
        Some(first) => {
            let mut text = text.chars();
            text.next().is_some_and(|found| first == '?' || first == found) && is_like(pattern.as_str(), text.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = r#"{"Version": "2012-10-17", "Statement": [
        {"Sid": "Look", "Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*"},
        {"Effect": "Allow", "Action": ["ec2:DeleteSnapshot"], "Resource": "arn:aws:ec2:*::snapshot/*",
         "Condition": {"StringEquals": {"aws:ResourceTag/owner": ["ours", "theirs"]}}},
        {"Effect": "Deny", "Action": "ec2:DeleteSnapshot", "Resource": "arn:aws:ec2:*::snapshot/snap-1"}]}"#;

    fn may(action: &str, resource: &str, tags: &[(&str, &str)]) -> bool {
        let tags: Tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let ask = Ask { action, resource: resource.to_owned(), resource_tags: Some(&tags), ..Ask::default() };
        Policy::parse(OWN).expect("a policy").allows(&ask)
    }

    #[test]
    fn what_is_not_allowed_is_refused() {
        let snapshot = "arn:aws:ec2:eu-west-1::snapshot/snap-2";
        assert!(may("ec2:DescribeVolumes", "*", &[]));
        assert!(may("ec2:DeleteSnapshot", snapshot, &[("owner", "ours")]));
        assert!(!may("ec2:DeleteSnapshot", snapshot, &[("owner", "others")]), "another's tag");
        assert!(!may("ec2:DeleteSnapshot", snapshot, &[]), "no tag");
        assert!(!may("ec2:DeleteSnapshot", "arn:aws:ec2:eu-west-1:1:volume/vol-2", &[("owner", "ours")]), "a volume");
        assert!(!may("ec2:DeleteSnapshot", "arn:aws:ec2:eu-west-1::snapshot/snap-1", &[("owner", "ours")]), "denied");
        assert!(!may("ec2:RunInstances", "*", &[]));
    }

    #[test]
    fn a_tag_is_found_whatever_the_case_of_its_name() {
        let snapshot = "arn:aws:ec2:eu-west-1::snapshot/snap-2";
        assert!(may("ec2:DeleteSnapshot", snapshot, &[("Owner", "ours")]));
        assert!(!may("ec2:DeleteSnapshot", snapshot, &[("Owner", "Ours")]), "values are compared as they are");
    }

    /// What is made has no id yet: its resource ends with an asterisk, which is like no pattern of ids.
    #[test]
    fn what_is_made_is_told_from_what_is_there() {
        let text = r#"{"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["ec2:CreateTags", "ebs:StartSnapshot"], "Resource": "arn:aws:ec2:*::snapshot/*"},
            {"Effect": "Deny", "Action": "ebs:StartSnapshot", "Resource": "*", "Condition": {"StringLike": {"ebs:ParentSnapshot": "*snap-*"}}},
            {"Effect": "Deny", "Action": "ec2:CreateTags", "Resource": "arn:aws:ec2:*::snapshot/snap-*"}]}"#;
        let policy = Policy::parse(text).expect("a policy");
        let may = |action, id: &str, context: &[(&'static str, &str)]| {
            let context = context.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
            policy.allows(&Ask { context, ..Ask::of(action, format!("arn:aws:ec2:eu-west-1::snapshot/{id}")) })
        };
        assert!(may("ec2:CreateTags", "*", &[]) && !may("ec2:CreateTags", "snap-0a", &[]));
        let parent = ("ebs:ParentSnapshot", "arn:aws:ec2:eu-west-1::snapshot/snap-0a");
        assert!(may("ebs:StartSnapshot", "*", &[]) && !may("ebs:StartSnapshot", "*", &[parent]));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (from, to) in [
            ("Sid", "NotAction"),
            ("aws:ResourceTag/owner", "aws:SourceIp"),
            ("StringEquals", "IpAddress"),
            ("theirs", "${aws:username}"),
        ] {
            let said = Policy::parse(&OWN.replace(from, to)).expect_err("not understood").to_string();
            assert!(said.contains("not understood"), "{said}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text) in [("*", ""), ("a*c", "abbc"), ("a?c", "abc"), ("*b*", "abc"), ("", "")] {
            assert!(is_like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a*c", "abb"), ("a?c", "ac"), ("", "a"), ("abc", "ab")] {
            assert!(!is_like(pattern, text), "{pattern} {text}");
        }
    }
}
