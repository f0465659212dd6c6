use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use farshore_core::{SystemClock, SystemEntropy};

use super::*;

/// Paths below /granted are as they are; all others are refused.
struct Below(Mutex<Vec<String>>);

impl PathResolver for Below {
    type Error = String;

    async fn resolve(&self, path: &str) -> Result<String, FillError<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        match path.strip_prefix("/granted/") {
            Some("comma") => Ok("/granted/a,b".to_owned()),
            Some(_) => Ok(path.to_owned()),
            None => Err(FillError::Path(format!("{path} is refused"))),
        }
    }
}

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn owned(pairs: Pairs<'_>) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn fill(template: &str, slots: Pairs<'_>, disks: &[Pairs<'_>]) -> Result<Vec<String>, FillError<String>> {
    let template: Template = toml::from_str(template).expect(template);
    let has_disks = template.arguments.iter().any(|argument| matches!(argument, Argument::Each(_)));
    let repetitions =
        if has_disks { vec![("disks".to_owned(), disks.iter().map(|item| owned(item)).collect())] } else { Vec::new() };
    template.fill(owned(slots), repetitions, &Below(Mutex::default())).await
}

const QEMU: &str = r#"
    program = "/usr/bin/qemu-system-x86_64"
    arguments = [
        "-name", "guest={name:name},debug-threads=on", "-m", "size={memory:integer}M", "{{literal}}",
        { each = "disks", arguments = ["-drive", "file={path:path},format=raw,id={name:name}"] },
    ]
    timeout = "1500ms"
"#;

#[tokio::test]
async fn slots_fill_parts_of_arguments() {
    let slots = [("name", "web-1"), ("memory", "2048")];
    let disks: [Pairs<'_>; 2] =
        [&[("path", "/granted/0"), ("name", "d0")], &[("path", "/granted/a b"), ("name", "d1")]];
    let filled = fill(QEMU, &slots, &disks).await.expect("good slots");
    let wanted = [
        "-name",
        "guest=web-1,debug-threads=on",
        "-m",
        "size=2048M",
        "{literal}",
        "-drive",
        "file=/granted/0,format=raw,id=d0",
        "-drive",
        "file=/granted/a b,format=raw,id=d1",
    ];
    assert_eq!(filled, wanted);
    assert_eq!(fill(QEMU, &slots, &[]).await.expect("no disks").len(), 5);
}

#[tokio::test]
async fn values_that_could_become_options_are_refused() {
    let cases = [
        ("name", "a,readonly=off"),
        ("name", "-daemonize"),
        ("name", "a b"),
        ("name", ""),
        ("name", "a=b"),
        ("name", "é"),
        ("uuid", "00000000-0000-0000-0000-00000000000G"),
        ("uuid", "00000000-0000-0000-0000-0000000000000"),
        ("integer", "-1"),
        ("integer", "+1"),
        ("integer", "9007199254740992"),
        ("integer", "1,2"),
        ("size", "1G"),
        ("mac", "52:54:00:12:34:5G"),
        ("mac", "52:54:00:12:34"),
        ("path", "granted/x"),
        ("path", "/granted/../etc/passwd"),
        ("path", "/granted/x,readonly=off"),
        ("path", "/granted/x\ny"),
        ("path", "/granted/comma"),
    ];
    for (word, value) in cases {
        let template = format!("program = \"/bin/true\"\narguments = [\"{{value:{word}}}\"]");
        let filled = fill(&template, &[("value", value)], &[]).await;
        assert!(matches!(filled, Err(FillError::Invalid(_))), "{word} {value:?}: {filled:?}");
    }
    let good = [
        ("name", "web-1.example_2"),
        ("uuid", "01234567-89ab-cdef-0123-456789abcdef"),
        ("integer", "9007199254740991"),
        ("size", "0"),
        ("mac", "52:54:00:12:34:5f"),
        ("path", "/granted/x"),
    ];
    for (word, value) in good {
        let template = format!("program = \"/bin/true\"\narguments = [\"{{value:{word}}}\"]");
        assert_eq!(fill(&template, &[("value", value)], &[]).await, Ok(vec![value.to_owned()]));
    }
    let template = "program = \"/bin/true\"\narguments = [\"{value:path}\"]";
    let refused = fill(template, &[("value", "/etc/passwd")], &[]).await;
    assert_eq!(refused, Err(FillError::Path("/etc/passwd is refused".to_owned())));
}

#[tokio::test]
async fn the_slots_are_exactly_the_templates() {
    let cases: [(Pairs<'_>, &[Pairs<'_>], &str); 5] = [
        (&[("name", "a")], &[], "slot memory is left out"),
        (&[("name", "a"), ("memory", "1"), ("more", "x")], &[], "no slot \"more\""),
        (&[("name", "a"), ("memory", "1"), ("name", "b")], &[], "slot name is given twice"),
        (&[("name", "a"), ("memory", "1")], &[&[("path", "/granted/x")]], "slot name is left out"),
        (&[("name", "a"), ("memory", "1")], &[&[("path", "/granted/x"), ("name", "d"), ("x", "y")]], "no slot \"x\""),
    ];
    for (slots, disks, wanted) in cases {
        let Err(FillError::Invalid(sentence)) = fill(QEMU, slots, disks).await else { panic!("{wanted}") };
        assert!(sentence.contains(wanted), "{sentence}");
    }
    let template: Template = toml::from_str(QEMU).expect("a template");
    let slots = owned(&[("name", "a"), ("memory", "1")]);
    let none = template.fill(slots, Vec::new(), &Below(Mutex::default())).await;
    assert_eq!(none, Err(FillError::Invalid("the template's repetition disks is left out".to_owned())));
}

#[test]
fn templates_that_cannot_work_are_refused_when_they_are_read() {
    for (text, wanted) in [
        ("program = \"qemu\"", "it is not absolute"),
        ("program = \"/q\"\ntimeout = \"31s\"", "not a program's timeout"),
        ("program = \"/q\"\ntimeout = 5", "expected a string"),
        ("program = \"/q\"\nshell = true", "unknown field"),
        ("program = \"/q\"\narguments = [{ each = \"disks\" }]", "expected an argument or { each"),
    ] {
        let error = toml::from_str::<Template>(text).expect_err(text).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    for (text, wanted) in [
        ("{name}", "written {name:type}"),
        ("{name:text}", "a slot's type is"),
        ("{Name:name}", "a slot's name is"),
        ("{name:name", "has no }"),
        ("name}", "has no {"),
    ] {
        let error = text.parse::<Text>().expect_err(text).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let template: Template = toml::from_str(QEMU).expect("a template");
    assert_eq!(toml::from_str::<Template>(&toml::to_string(&template).expect("TOML")).expect("its own text"), template);
}

async fn shell(script: &str, limit: Duration) -> Result<Completion, RunError> {
    let arguments = ["-c".to_owned(), script.to_owned()];
    run("/bin/sh".as_ref(), &arguments, limit, &SystemClock, &SystemEntropy).await
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_program_gets_an_empty_environment_folder_and_input() {
    let script = "env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort; ls -A; cat; stat -c %a .; grep NoNewPrivs /proc/self/status >&2; exit 3";
    let completion = shell(script, LONG).await.expect("a run");
    let output: Vec<&str> = completion.output.lines().collect();
    assert_eq!(output, ["LANG=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "700"]);
    assert_eq!(completion.exit_code, 3);
    if std::path::Path::new("/usr/bin/setpriv").exists() {
        assert_eq!(completion.errors, "NoNewPrivs:\t1\n");
    }
    let ended = shell("kill -TERM $$", LONG).await.expect("a run");
    assert_eq!(ended.exit_code, 128 + 15);
    let missing = run("/nonexistent/tool".as_ref(), &[], LONG, &SystemClock, &SystemEntropy).await;
    assert!(matches!(missing, Err(RunError::NoProgram(_))));
}

#[tokio::test]
async fn only_the_end_of_the_output_is_kept() {
    let completion = shell("seq 1 200000; echo end", LONG).await.expect("a run");
    assert!(completion.output.len() <= crate::limits::PROGRAM_OUTPUT_BYTES_MAX);
    assert!(completion.output.ends_with("200000\nend\n"));
}

/// Whether a process of this number runs.
fn runs(number: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", number.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn until(condition: impl Fn() -> bool) -> bool {
    for _ in 0..500 {
        if condition() {
            return true;
        }
        farshore_core::Clock::sleep(&SystemClock, Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn a_program_is_killed_with_its_children_at_its_deadline_and_what_detached_itself_lives_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (child, daemon) = (folder.path().join("child"), folder.path().join("daemon"));
    let script = format!(
        "sleep 60 & echo $! > {}; setsid sleep 61 > /dev/null 2>&1 & echo $! > {}; sleep 60",
        child.display(),
        daemon.display()
    );
    let ended = shell(&script, Duration::from_millis(500)).await;
    assert!(matches!(ended, Err(RunError::TimedOut { .. })), "{ended:?}");
    let number = |path| std::fs::read_to_string(path).expect("a number");
    let (child, daemon) = (number(child), number(daemon));
    assert!(until(|| !runs(&child)).await, "the child was not killed");
    assert!(runs(&daemon), "the detached process did not live on");
    std::process::Command::new("kill").arg(daemon.trim()).status().expect("kill");
}

#[tokio::test]
async fn an_abandoned_run_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("number");
    let script = format!("echo $$ > {}; sleep 60; true", path.display());
    let running = tokio::spawn(async move { shell(&script, LONG).await });
    assert!(until(|| std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))).await);
    let number = std::fs::read_to_string(&path).expect("a number");
    running.abort();
    assert!(until(|| !runs(&number)).await, "the program was not killed");
}

#[tokio::test]
async fn a_detached_child_that_keeps_the_output_open_does_not_hold_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("number");
    let script = format!("setsid sleep 62 & echo $! > {}; echo started", path.display());
    let completion = tokio::select! {
        completion = shell(&script, LONG) => completion.expect("a run"),
        () = farshore_core::Clock::sleep(&SystemClock, Duration::from_secs(5)) => panic!("the run was held"),
    };
    assert_eq!(completion.output, "started\n");
    let number = std::fs::read_to_string(&path).expect("a number");
    std::process::Command::new("kill").arg(number.trim()).status().expect("kill");
}
