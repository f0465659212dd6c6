//! A component in each language sends back every type of `wit/`, through the real host: the same engine, linker, limits
//! and closed WASI as any adapter. The components are built by `cargo xtask components` and `cargo xtask test`.
//!
//! The values are made from the component's own types: every case of every variant, the numbers at which JavaScript's
//! engines are known to fail, empty and large lists, texts beyond ASCII, options with and without a value at every depth.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use wasmtime::{
    Store,
    component::{
        Component as Compiled, Instance, Val,
        types::{ComponentItem, Type},
    },
};

use crate::{
    Binding, BoundComponent, Call, Component, Endpoints, Grants, HostOptions, LogLevel, Mode, Observer, PluginHost,
    Progress, Refusal, Templates,
    abi::{CaptureOutcome, PlatformError},
    bound::{Answer, GuestFuture},
    limits::{LIST_BYTES_MAX, NUMBER_END},
    state::CallState,
};

const ECHO: &str = "farshore:echo/echo@0.1.0-draft.5";

/// What went wrong with each value of one function.
struct Wrong(Vec<String>, usize);

impl Answer for Wrong {
    type Checked = (Vec<String>, usize);

    fn check(self, _: &mut CallState) -> Result<Self::Checked, String> {
        Ok((self.0, self.1))
    }
}

/// Remembers what a component says.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn add(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

impl Observer for Heard {
    fn log(&self, call: &Call, level: LogLevel, line: &str) {
        self.add(format!("{} {level:?} {line}", call.function));
    }

    fn progress(&self, _: &Call, progress: &Progress) {
        self.add(format!("{} {} {:?}", progress.doing, progress.done, progress.total));
    }

    fn refused(&self, _: &Call, refusal: &Refusal) {
        self.add(refusal.to_string());
    }
}

fn component_path(name: &str) -> PathBuf {
    let folder = std::env::var_os("FARSHORE_COMPONENTS").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| PathBuf::from("../../target/components"));
    folder.join(format!("{name}.wasm"))
}

async fn load(name: &str) -> Component {
    let path = component_path(name);
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask components` builds it", path.display()));
    let cache = std::env::temp_dir().join(format!("farshore-test-code-{}", rustix::process::geteuid().as_raw()));
    let host = PluginHost::new(HostOptions::new(cache)).expect("a host");
    host.load(bytes).await.expect("a component")
}

fn bind(component: &Component, observer: Arc<Heard>) -> BoundComponent {
    let binding = Binding {
        site: "site".parse().expect("a name"),
        mode: Mode::Observe,
        settings: serde_json::json!({ "text": "héllo 😀" }),
        grants: Grants::default(),
        endpoints: Endpoints::new(),
        programs: Templates::new(),
        observer,
    };
    component.bind(binding).expect("a binding")
}

fn functions(component: &Compiled) -> Vec<String> {
    let engine = component.engine();
    let echo = component.component_type().get_export(engine, ECHO).map(|found| found.ty);
    let Some(ComponentItem::ComponentInstance(echo)) = echo else { panic!("no interface {ECHO}") };
    let functions = echo.exports(engine).filter(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_)));
    functions.map(|(name, _)| name.to_owned()).collect()
}

/// The values of a type. Large ones only where they are not multiplied by what is around them.
fn values(of: &Type, large: bool) -> Vec<Val> {
    match of {
        Type::Bool => [true, false].map(Val::Bool).to_vec(),
        Type::U8 => [0, 127, 128, 255].map(Val::U8).to_vec(),
        Type::U16 => [0, 0x7fff, 0x8000, u16::MAX].map(Val::U16).to_vec(),
        Type::U32 => [0, 1, 0x7fff_ffff, 0x8000_0000, 0x83dc_efb7, u32::MAX].map(Val::U32).to_vec(),
        Type::S32 => [0, -1, i32::MIN, i32::MAX].map(Val::S32).to_vec(),
        Type::U64 => [0, 1, 0x8000_0000, 1 << 32, 0x83dc_efb7_1234, NUMBER_END - 1].map(Val::U64).to_vec(),
        Type::String => {
            let mut texts =
                vec![String::new(), "plain".to_owned(), "héllo 😀 \u{10ffff}".to_owned(), "zero\0in".to_owned()];
            texts.extend(large.then(|| "é".repeat(LIST_BYTES_MAX / 2)));
            texts.into_iter().map(Val::String).collect()
        }
        Type::List(list) if list.ty() == Type::U8 => {
            let mut lists = vec![Vec::new(), vec![0, 127, 128, 255]];
            lists.extend(large.then(|| (0..LIST_BYTES_MAX).map(|index| (index % 251) as u8).collect()));
            lists.into_iter().map(|bytes| Val::List(bytes.into_iter().map(Val::U8).collect())).collect()
        }
        Type::List(list) => vec![Val::List(Vec::new()), Val::List(values(&list.ty(), false))],
        Type::Option(option) => {
            let some = values(&option.ty(), large).into_iter().map(|value| Val::Option(Some(Box::new(value))));
            [Val::Option(None)].into_iter().chain(some).collect()
        }
        Type::Enum(cases) => cases.names().map(|name| Val::Enum(name.to_owned())).collect(),
        Type::Variant(variant) => variant
            .cases()
            .flat_map(|case| {
                let name = case.name.to_owned();
                match case.ty {
                    None => vec![Val::Variant(name, None)],
                    Some(ty) => {
                        let payloads = values(&ty, large).into_iter();
                        payloads.map(|value| Val::Variant(name.clone(), Some(Box::new(value)))).collect()
                    }
                }
            })
            .collect(),
        Type::Record(record) => {
            let fields: Vec<(String, Vec<Val>)> =
                record.fields().map(|field| (field.name.to_owned(), values(&field.ty, large))).collect();
            let most = fields.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
            let turn = |index: usize| {
                let field = |(name, values): &(String, Vec<Val>)| (name.clone(), values[index % values.len()].clone());
                Val::Record(fields.iter().map(field).collect())
            };
            (0..most).map(turn).collect()
        }
        other => panic!("wit/ has a type that this test does not know: {other:?}"),
    }
}

/// Sends every value through one function.
async fn send_all(store: &mut Store<CallState>, instance: &Instance, name: &str) -> wasmtime::Result<Wrong> {
    let interface = instance.get_export_index(&mut *store, None, ECHO);
    let function = interface.and_then(|index| instance.get_export_index(&mut *store, Some(&index), name));
    let function = function.and_then(|index| instance.get_func(&mut *store, index)).expect("the function");
    let (_, of) = function.ty(&*store).params().next().map(|(name, ty)| (name.to_owned(), ty)).expect("one argument");
    // The untyped values of this test take 40 times their size, which counts as crossing the boundary.
    store.set_hostcall_fuel(1 << 30);
    // Large values once for each kind is enough: an engine passes a list the same way wherever it stands.
    let sent = values(&of, ["echo-chunk", "echo-document", "echo-owned-page"].contains(&name));
    let mut wrong = Vec::new();
    for value in &sent {
        let mut came = [Val::Bool(false)];
        function.call_async(&mut *store, std::slice::from_ref(value), &mut came).await?;
        if came[0] != Val::Result(Ok(Some(Box::new(value.clone())))) {
            let [sent, came] = [format!("{value:?}"), format!("{:?}", came[0])];
            let short = |text: &str| text.chars().take(400).collect::<String>();
            wrong.push(format!("{name}: {} came back as {}", short(&sent), short(&came)));
        }
    }
    Ok(Wrong(wrong, sent.len()))
}

async fn every_type_comes_back(language: &str) {
    let component = load(&format!("echo-{language}")).await;
    let bound = bind(&component, Arc::default());
    let names = functions(component.loaded.pre.component());
    assert!(names.len() >= 67, "only {} functions", names.len());
    let (mut wrong, mut count) = (Vec::new(), 0);
    for name in names {
        let outcome = bound
            .call("echo", move |store: &mut Store<CallState>, instance: &Instance| -> GuestFuture<'_, Wrong> {
                Box::pin(async move { Ok(Ok(send_all(store, instance, &name).await?)) })
            })
            .await;
        let (of_function, sent) = outcome.expect("a call that ends well");
        wrong.extend(of_function);
        count += sent;
    }
    assert!(wrong.is_empty(), "{} of {count} values were corrupted:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 250, "only {count} values");
}

async fn an_adapter_of_the_language_works(language: &str) {
    let component = load(&format!("echo-{language}")).await;
    assert_eq!(
        component.interfaces(),
        [
            "inventory",
            "source",
            "source-blocks",
            "power",
            "target-disks",
            "sealed-disks",
            "target-machines",
            "ownership"
        ]
    );
    let heard = Arc::new(Heard::default());
    let bound = bind(&component, Arc::clone(&heard));
    assert_eq!(bound.describe().await.expect("a description").name, format!("echo-{language}"));
    let page = bound.list_machines(None).await.expect("a page");
    let machine = page.machines.first().expect("a machine");
    assert_eq!((machine.name.as_str(), machine.cpus), ("{\"text\":\"héllo 😀\"}", 1));
    let heard = heard.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(heard, ["inventory.list-machines Info listing", "listing 1 Some(2)"]);
    let error = bound.end_capture(vec![1], CaptureOutcome::Committed).await.expect_err("it cannot do this");
    assert_eq!(error.platform_error(), Some(&PlatformError::Unsupported("echo".to_owned())));
    let error = bound.open_target_disk(Vec::new()).await.expect_err("it cannot do this");
    assert_eq!(error.platform_error(), Some(&PlatformError::Unsupported("echo".to_owned())));
}

macro_rules! languages {
    ($($module:ident = $name:literal;)*) => {$(
        mod $module {
            #[tokio::test]
            async fn every_type_comes_back() {
                super::every_type_comes_back($name).await;
            }

            #[tokio::test]
            async fn an_adapter_works() {
                super::an_adapter_of_the_language_works($name).await;
            }
        }
    )*};
}

languages! {
    rust = "rust";
    python = "python";
    javascript = "javascript";
}
