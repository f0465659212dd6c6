//! Filling a template's slots with what a component gave.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use super::{Argument, Piece, SlotType, Template, Text};
use crate::limits::{NUMBER_END, PROGRAM_ARGUMENTS_MAX, REPETITION_ITEMS_MAX, SLOTS_MAX};

/// Slots by name.
pub(crate) type Slots = BTreeMap<String, String>;

/// Slots of a component's, in its order.
pub(crate) type Given = Vec<(String, String)>;

/// Where a path of a component's really leads, if it may be used.
pub(crate) trait PathResolver {
    /// What goes wrong: a refusal ends the component's call.
    type Error;

    /// The resolved path.
    fn resolve(&self, path: &str) -> impl Future<Output = Result<String, FillError<Self::Error>>> + Send;
}

/// Why a template could not be filled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FillError<E> {
    /// The component's values do not fit; the sentence says how.
    Invalid(String),
    /// A path may not be used.
    Path(E),
}

impl Template {
    /// The arguments, with every slot filled.
    pub(crate) async fn fill<R: PathResolver + Sync>(
        &self,
        slots: Given,
        repetitions: Vec<(String, Vec<Given>)>,
        resolver: &R,
    ) -> Result<Vec<String>, FillError<R::Error>>
    where
        R::Error: Send,
    {
        let slots = collect(slots)?;
        let mut items = BTreeMap::new();
        for (name, list) in repetitions {
            if list.len() > REPETITION_ITEMS_MAX {
                return Err(FillError::Invalid(format!(
                    "the repetition {name} has more than {REPETITION_ITEMS_MAX} items"
                )));
            }
            let list = list.into_iter().map(collect).collect::<Result<Vec<_>, _>>()?;
            if items.insert(name.clone(), list).is_some() {
                return Err(FillError::Invalid(format!("the repetition {name} is given twice")));
            }
        }
        self.check_names(&slots, &items)?;
        let mut arguments = Vec::new();
        for argument in &self.arguments {
            match argument {
                Argument::One(text) => arguments.push(text.fill(&slots, resolver).await?),
                Argument::Each(repeated) => {
                    for item in items.get(&repeated.each).map(Vec::as_slice).unwrap_or_default() {
                        for text in &repeated.arguments {
                            arguments.push(text.fill(item, resolver).await?);
                        }
                    }
                }
            }
            if arguments.len() > PROGRAM_ARGUMENTS_MAX {
                return Err(FillError::Invalid(format!(
                    "the program would get more than {PROGRAM_ARGUMENTS_MAX} arguments"
                )));
            }
        }
        Ok(arguments)
    }

    /// Every slot of the template is given, and nothing else.
    fn check_names<E>(&self, slots: &Slots, items: &BTreeMap<String, Vec<Slots>>) -> Result<(), FillError<E>> {
        let mut wanted = BTreeSet::new();
        let mut wanted_of_items: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for argument in &self.arguments {
            match argument {
                Argument::One(text) => wanted.extend(text.slot_names()),
                Argument::Each(repeated) => {
                    let names = wanted_of_items.entry(&repeated.each).or_default();
                    names.extend(repeated.arguments.iter().flat_map(Text::slot_names));
                }
            }
        }
        compare("slot", &wanted, &slots.keys().map(String::as_str).collect())?;
        compare("repetition", &wanted_of_items.keys().copied().collect(), &items.keys().map(String::as_str).collect())?;
        for (name, wanted) in &wanted_of_items {
            for item in items.get(*name).map(Vec::as_slice).unwrap_or_default() {
                compare("slot", wanted, &item.keys().map(String::as_str).collect())?;
            }
        }
        Ok(())
    }
}

fn collect<E>(list: Given) -> Result<Slots, FillError<E>> {
    if list.len() > SLOTS_MAX {
        return Err(FillError::Invalid(format!("there are more than {SLOTS_MAX} slots in a list")));
    }
    let mut slots = Slots::new();
    for (name, value) in list {
        if slots.contains_key(&name) {
            return Err(FillError::Invalid(format!("the slot {name} is given twice")));
        }
        slots.insert(name, value);
    }
    Ok(slots)
}

fn compare<E>(what: &str, wanted: &BTreeSet<&str>, given: &BTreeSet<&str>) -> Result<(), FillError<E>> {
    if let Some(name) = wanted.difference(given).next() {
        return Err(FillError::Invalid(format!("the template's {what} {name} is left out")));
    }
    if let Some(name) = given.difference(wanted).next() {
        return Err(FillError::Invalid(format!("the template has no {what} {name:?}")));
    }
    Ok(())
}

impl Text {
    fn slot_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Slot { name, .. } => Some(name.as_str()),
        })
    }

    async fn fill<R: PathResolver + Sync>(&self, slots: &Slots, resolver: &R) -> Result<String, FillError<R::Error>>
    where
        R::Error: Send,
    {
        let mut filled = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => filled.push_str(text),
                Piece::Slot { name, slot_type } => {
                    let value = slots
                        .get(name)
                        .ok_or_else(|| FillError::Invalid(format!("the template's slot {name} is left out")))?;
                    if let Some(rule) = slot_type.rule_broken_by(value) {
                        return Err(FillError::Invalid(format!("{value:?} cannot fill the slot {name}: {rule}")));
                    }
                    if *slot_type == SlotType::Path {
                        let resolved = resolver.resolve(value).await?;
                        // The folder's own name is the operator's, and may hold a comma that would end the option.
                        if let Some(rule) = slot_type.rule_broken_by(&resolved) {
                            return Err(FillError::Invalid(format!(
                                "{resolved:?} cannot fill the slot {name}: {rule}"
                            )));
                        }
                        filled.push_str(&resolved);
                    } else {
                        filled.push_str(value);
                    }
                }
            }
        }
        Ok(filled)
    }
}

impl SlotType {
    /// What is wrong with the value, if anything.
    pub(super) fn rule_broken_by(self, value: &str) -> Option<&'static str> {
        let fits = match self {
            Self::Name => is_name(value),
            Self::Uuid => is_uuid(value),
            Self::Integer | Self::Size => is_number(value),
            Self::Mac => is_mac(value),
            Self::Path => {
                return crate::grants::path_rule(value).or_else(|| value.contains(',').then_some("it has a comma"));
            }
        };
        (!fits).then_some(match self {
            Self::Name => {
                "a name is 1 to 128 letters, digits, dots, underscores and dashes, the first a letter or digit"
            }
            Self::Uuid => "a uuid is 36 lower-case hexadecimal digits and dashes",
            Self::Integer => "an integer is 0 to 2^53 - 1, in decimal digits",
            Self::Size => "a size is 0 to 2^53 - 1 bytes, in decimal digits",
            Self::Mac => "a mac is six pairs of lower-case hexadecimal digits with colons",
            Self::Path => "a path is absolute",
        })
    }
}

fn is_name(value: &str) -> bool {
    value.len() <= 128
        && value.starts_with(|first: char| first.is_ascii_alphanumeric())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn is_lower_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_uuid(value: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    value.split('-').count() == lengths.len()
        && value.split('-').zip(lengths).all(|(part, length)| part.len() == length && is_lower_hexadecimal(part))
}

fn is_number(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_digit()) && value.parse::<u64>().is_ok_and(|number| number < NUMBER_END)
}

fn is_mac(value: &str) -> bool {
    value.split(':').count() == 6 && value.split(':').all(|pair| pair.len() == 2 && is_lower_hexadecimal(pair))
}
