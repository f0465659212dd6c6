//! Rules for `wit/` that no parser knows.
//!
//! - A function that returns something returns a `result` whose value is a record, a variant, a resource, a list or a
//!   string: two JavaScript engines corrupt a bare integer, silently (measured; the echo components show whether it is
//!   still so).
//! - A function that returns a list returns a page: a record with a list and `next: option<string>`, with
//!   `cursor: option<string>` among the function's arguments; or, for what lies at offsets, a record with a list and
//!   `told-to: u64`, with `offset: u64` among the arguments. A list of bytes is no page: it is one value. So is what
//!   [`ONE_VALUE`] names.
//! - Only plain functions and types: no `async`, streams, futures or maps, which not every language's toolchain can build.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use wit_parser::{Function, Resolve, Type, TypeDefKind, TypeId};

/// Functions whose result is one value with lists in it, each with what limits them.
const ONE_VALUE: [(&str, &str); 1] =
    [("farshore:host/http.send", "an HTTP answer, whose headers the host's client limits as one whole")];

/// A function or type that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The interface and the function: `farshore:platform/source.list-disks`.
    pub place: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.problem)
    }
}

/// Checks the packages in these folders; a package comes after those that it uses.
///
/// Fails if a folder does not hold a WIT package that can be read. What breaks a rule is returned.
pub fn check(folders: &[&Path]) -> Result<Vec<Violation>> {
    let mut resolve = Resolve::default();
    for folder in folders {
        resolve.push_path(folder).with_context(|| format!("reading the WIT package in {}", folder.display()))?;
    }
    Ok(violations(&resolve))
}

fn violations(resolve: &Resolve) -> Vec<Violation> {
    let mut found = Vec::new();
    for (_, package) in resolve.packages.iter() {
        let name = format!("{}:{}", package.name.namespace, package.name.name);
        for (interface_name, id) in &package.interfaces {
            let Some(interface) = resolve.interfaces.get(*id) else { continue };
            for (function_name, function) in &interface.functions {
                let place = format!("{name}/{interface_name}.{function_name}");
                let is_one_value = ONE_VALUE.iter().any(|(named, _)| *named == place);
                let problems = problems(resolve, function, is_one_value);
                found.extend(problems.into_iter().map(|problem| Violation { place: place.clone(), problem }));
            }
        }
    }
    found
}

fn problems(resolve: &Resolve, function: &Function, is_one_value: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if function.kind.is_async() {
        problems.push("it is async; a public function is plain, and long work is stepped".to_owned());
    }
    for parameter in &function.params {
        problems.extend(unbuildable(resolve, &parameter.ty));
    }
    let Some(result) = &function.result else { return problems };
    problems.extend(unbuildable(resolve, result));
    let Some(TypeDefKind::Result(result)) = kind(resolve, result) else {
        problems.push("it returns a bare value; return a result with a record in it".to_owned());
        return problems;
    };
    let Some(value) = &result.ok else { return problems };
    if is_bare_number(resolve, value) {
        problems.push("its result is a bare number; put it into a record".to_owned());
    }
    match kind(resolve, value) {
        Some(TypeDefKind::List(item)) if !matches!(item, Type::U8) => {
            problems.push(
                "its result is a list; return a page: a record with the list and `next: option<string>`".to_owned(),
            );
        }
        Some(TypeDefKind::Record(record)) => {
            let lists =
                |ty: &Type| matches!(kind(resolve, ty), Some(TypeDefKind::List(item)) if !matches!(item, Type::U8));
            let field = |name: &str| record.fields.iter().find(|field| field.name == name).map(|field| &field.ty);
            let argument = |name: &str| {
                let found = function.params.iter().find(|parameter| parameter.name == name);
                found.map(|parameter| &parameter.ty)
            };
            let both = |pair: [Option<&Type>; 2], fits: &dyn Fn(&Type) -> bool| {
                pair.into_iter().all(|ty| ty.is_some_and(fits))
            };
            let is_paged = both([field("next"), argument("cursor")], &|ty| is_optional_string(resolve, ty))
                || both([field("told-to"), argument("offset")], &|ty| matches!(ty, Type::U64));
            if record.fields.iter().any(|field| lists(&field.ty)) && !is_paged && !is_one_value {
                problems.push(
                    "its result holds a list without pages; add `next: option<string>` to the record and \
                     `cursor: option<string>` to the arguments"
                        .to_owned(),
                );
            }
        }
        _ => {}
    }
    problems
}

/// What a type is, through its aliases.
fn kind<'a>(resolve: &'a Resolve, ty: &Type) -> Option<&'a TypeDefKind> {
    let Type::Id(id) = ty else { return None };
    match &resolve.types.get(*id)?.kind {
        TypeDefKind::Type(alias) => kind(resolve, alias),
        other => Some(other),
    }
}

fn is_bare_number(resolve: &Resolve, ty: &Type) -> bool {
    match ty {
        Type::Id(id) => match resolve.types.get(*id).map(|definition| &definition.kind) {
            Some(TypeDefKind::Type(alias)) => is_bare_number(resolve, alias),
            _ => false,
        },
        Type::String => false,
        _ => true,
    }
}

fn is_optional_string(resolve: &Resolve, ty: &Type) -> bool {
    matches!(kind(resolve, ty), Some(TypeDefKind::Option(Type::String)))
}

/// Types, at any depth, that not every toolchain can build.
fn unbuildable(resolve: &Resolve, ty: &Type) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    look_for_unbuildable(resolve, ty, &mut seen, &mut found);
    found
}

fn look_for_unbuildable(resolve: &Resolve, ty: &Type, seen: &mut Vec<TypeId>, found: &mut Vec<String>) {
    let Type::Id(id) = ty else {
        if matches!(ty, Type::F32 | Type::F64 | Type::Char | Type::ErrorContext) {
            found
                .push("it uses a float, a char or an error context, which the echo components do not prove".to_owned());
        }
        return;
    };
    if seen.contains(id) {
        return;
    }
    seen.push(*id);
    let mut inside: Vec<&Type> = Vec::new();
    match resolve.types.get(*id).map(|definition| &definition.kind) {
        Some(TypeDefKind::Record(record)) => inside.extend(record.fields.iter().map(|field| &field.ty)),
        Some(TypeDefKind::Variant(variant)) => inside.extend(variant.cases.iter().filter_map(|case| case.ty.as_ref())),
        Some(TypeDefKind::Option(ty) | TypeDefKind::List(ty) | TypeDefKind::Type(ty)) => inside.push(ty),
        Some(TypeDefKind::Result(result)) => inside.extend([&result.ok, &result.err].into_iter().flatten()),
        Some(TypeDefKind::Enum(_) | TypeDefKind::Resource | TypeDefKind::Handle(_)) | None => {}
        Some(other) => found.push(format!(
            "it uses a {}, which not every toolchain can build or the echo components do not prove",
            other.as_str()
        )),
    }
    for ty in inside {
        look_for_unbuildable(resolve, ty, seen, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let mut resolve = Resolve::default();
        let text = format!("package farshore:test@0.1.0;\ninterface things {{\n{text}\n}}");
        resolve.push_str("test.wit", &text).expect(&text);
        violations(&resolve).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_projects_own_wit_keeps_the_rules() {
        let root = Path::new("../..");
        let found = check(&[&root.join("wit/host"), &root.join("wit/platform")]).expect("WIT that can be read");
        assert_eq!(found, []);
    }

    #[test]
    fn bare_integers_are_found() {
        for text in [
            "size: func() -> u64;",
            "size: func() -> result<u32, string>;",
            "type bytes = u64; size: func() -> result<bytes, string>;",
            "known: func() -> bool;",
            "known: func() -> result<bool, string>;",
        ] {
            let found = of(text);
            assert!(found.len() == 1 && found[0].contains("bare"), "{text}: {found:?}");
            assert!(found[0].starts_with("farshore:test/things."), "{found:?}");
        }
    }

    #[test]
    fn lists_without_pages_are_found() {
        for text in [
            "all: func() -> result<list<string>, string>;",
            "record page { items: list<string> } all: func() -> result<page, string>;",
            "record page { items: list<string>, next: option<string> } all: func() -> result<page, string>;",
            "record page { items: list<string> } all: func(cursor: option<string>) -> result<page, string>;",
            "record page { items: list<string>, next: option<u64> } all: func(cursor: option<string>) -> result<page, string>;",
            "record page { items: list<string>, told-to: u64 } all: func() -> result<page, string>;",
            "record page { items: list<string>, told-to: option<u64> } all: func(offset: u64) -> result<page, string>;",
            "record page { items: list<string> } all: func(offset: u64) -> result<page, string>;",
        ] {
            let found = of(text);
            assert!(found.len() == 1 && found[0].contains("page"), "{text}: {found:?}");
        }
    }

    #[test]
    fn what_a_toolchain_cannot_build_is_found() {
        for text in [
            "run: async func() -> result<string, string>;",
            "run: func(input: stream<u8>) -> result<string, string>;",
            "record inner { at: f64 } record outer { inner: option<inner> } run: func(input: outer);",
            "run: func(input: tuple<u32, u32>);",
            "flags some { a, b } run: func(input: some);",
        ] {
            assert!(!of(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn good_functions_pass() {
        let text = "
            record extent { bytes: u64 }
            record page { items: list<extent>, next: option<string> }
            record stretch { items: list<extent>, told-to: u64 }
            resource thing { open: static func(path: string) -> result<thing, string>; }
            size: func(path: string) -> result<extent, string>;
            all: func(cursor: option<string>) -> result<page, string>;
            some: func(offset: u64) -> result<stretch, string>;
            bytes: func() -> result<list<u8>, string>;
            say: func(line: string);
            act: func() -> result<_, string>;";
        assert_eq!(of(text), Vec::<String>::new());
    }
}
