//! Whether the account's quota of vCPUs has room for one more instance.
//!
//! AWS limits how many vCPUs of on-demand instances run in a region. Each quota is for some families of instance types. Service
//! Quotas tells the limit, and not what is in use: that is counted here, of all instances of the account that run or start.
//! Spot instances have quotas of their own, and instances on Dedicated Hosts have those of the hosts.
//!
//! What is said is worth knowing, and never an obstacle: other instances may have ended by the time of the run, and the quota
//! is AWS's to enforce. So whatever cannot be asked is a sentence too, and no error; but for an endpoint that is not granted, of
//! which the host ends the call, and `config check` warns. What AWS counts and nobody here asks for,
//! such as capacity that is reserved and not used, makes the count too low.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    answers::{Instance, Page as _, Reservations},
    api::{Api, ApiResult, Call, Watch, unclear},
    error::{ApiError, platform_sentence},
    inventory,
    ports::HostError,
};

/// Since the call began: from then on nothing more is asked for, because one more request may take 12 s, and the host ends the
/// call after 30 s.
const ASK_MILLISECONDS: u64 = 16_000;
/// How many instances are on a page: with their tags, their XML is mostly less than what the host takes of an answer. If it
/// is not, the page is asked for again with half of them. EC2 makes no page for fewer than five.
const PAGE_INSTANCES: u32 = 100;
const PAGE_INSTANCES_MIN: u32 = 5;
/// So many types can be asked for at once.
const TYPES_MAX: usize = 100;
const GET: &str = "GetServiceQuota";
const GET_DEFAULT: &str = "GetAWSDefaultServiceQuota";

/// How many vCPUs of some families of types may run.
#[derive(Debug, PartialEq, Eq)]
struct Quota {
    /// AWS's code for it.
    code: &'static str,
    /// What AWS calls it.
    name: &'static str,
    /// The letters that the types begin with.
    families: &'static [&'static str],
}

/// AWS's quotas of on-demand instances (Amazon EC2 User Guide, On-Demand Instance quotas).
const QUOTAS: [Quota; 10] = [
    Quota {
        code: "L-1216C47A",
        name: "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
        families: &["a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"],
    },
    Quota { code: "L-6E869C2A", name: "Running On-Demand DL instances", families: &["dl"] },
    Quota { code: "L-74FC7D96", name: "Running On-Demand F instances", families: &["f"] },
    Quota { code: "L-DB2E81BA", name: "Running On-Demand G and VT instances", families: &["g", "gr", "vt"] },
    Quota { code: "L-F7808C92", name: "Running On-Demand HPC instances", families: &["hpc"] },
    Quota { code: "L-43DA4232", name: "Running On-Demand High Memory instances", families: &["u"] },
    Quota { code: "L-1945791B", name: "Running On-Demand Inf instances", families: &["inf"] },
    Quota { code: "L-417A185B", name: "Running On-Demand P instances", families: &["p"] },
    Quota { code: "L-2C3B7624", name: "Running On-Demand Trn instances", families: &["trn"] },
    Quota { code: "L-7295265B", name: "Running On-Demand X instances", families: &["x"] },
];

impl Quota {
    /// The one that holds for instances of this type, such as `m6i.xlarge`.
    fn of(instance_type: &str) -> Option<&'static Self> {
        let family = instance_type.split(|character: char| !character.is_ascii_lowercase()).next()?;
        QUOTAS.iter().find(|quota| quota.families.contains(&family))
    }
}

/// The instance that is to run besides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// What people call the machine.
    pub(crate) machine: &'a str,
    /// Such as `t3.large`.
    pub(crate) instance_type: &'a str,
    /// How many vCPUs this type has.
    pub(crate) vcpus: u32,
}

/// Why something is not known.
enum Unknown {
    /// No request is sent any more in this call.
    Late,
    /// The service has not told.
    Untold {
        /// As policies call it.
        action: String,
        error: ApiError,
    },
}

impl Unknown {
    fn untold(service: &str, operation: &str) -> impl FnOnce(ApiError) -> Self {
        let action = format!("{service}:{operation}");
        |error| Self::Untold { action, error }
    }
}

/// What is in use.
#[derive(Debug, Default)]
struct Usage {
    vcpus: u64,
    instances: usize,
    /// Whether time was left to count all instances.
    is_whole: bool,
}

/// What there is to say about the quota: nothing, if it has room.
pub(crate) fn problem(api: &Api<'_>, watch: Watch<'_>, wanted: Wanted<'_>) -> Option<String> {
    let Wanted { machine, instance_type, vcpus } = wanted;
    let Some(quota) = Quota::of(instance_type) else {
        let text = format!("no quota of vCPUs is known for instances of the type {instance_type} of machine {machine}");
        return Some(format!("{text}, and none is compared: look at Service Quotas whether there is room for it"));
    };
    let named = format!("the quota {} ({})", quota.name, quota.code);
    let not_known = format!("it is not known whether {named} has room for machine {machine}");
    let compared = limit(api, watch, quota).and_then(|limit| Ok((limit, usage(api, watch, quota)?)));
    match compared {
        Ok((limit, usage)) if usage.vcpus.saturating_add(vcpus.into()) > limit => {
            let at_least = if usage.is_whole { "" } else { "at least " };
            let text =
                format!("machine {machine} needs {vcpus} vCPUs as {instance_type}, and {at_least}{}", usage.vcpus);
            let text = format!("{text} of the {limit} that {named} allows are in use");
            Some(format!("{text}: end instances, or ask AWS to raise the quota in time, because it may take days"))
        }
        Ok((_, usage)) if usage.is_whole => None,
        Ok((_, usage)) => {
            let counted = format!("{} instances were counted, with {} vCPUs", usage.instances, usage.vcpus);
            Some(format!("{not_known}, because not all could be counted in time ({counted}): look at Service Quotas"))
        }
        Err(Unknown::Late) => {
            Some(format!("{not_known}, because no time was left to ask for it: look at Service Quotas"))
        }
        Err(Unknown::Untold { action, error }) if error.is_denied() => {
            Some(format!("{not_known}, because the credential may not ask for it: allow it `{action}`"))
        }
        Err(Unknown::Untold { action, error }) => {
            let error = error.while_doing(format!("asking for `{action}`"));
            Some(format!("{not_known}, so look at Service Quotas: {}", platform_sentence(&error)))
        }
    }
}

/// How many vCPUs may run: the account's own value, or else AWS's default.
fn limit(api: &Api<'_>, watch: Watch<'_>, quota: &Quota) -> Result<u64, Unknown> {
    let ask = |operation| {
        if watch.has_passed(ASK_MILLISECONDS) {
            return Err(Unknown::Late);
        }
        let answer = api.service_quotas(operation, &json!({"ServiceCode": "ec2", "QuotaCode": quota.code}));
        answer.and_then(|answer| value(&answer)).map_err(Unknown::untold("servicequotas", operation))
    };
    match ask(GET) {
        Err(Unknown::Untold { error, .. }) if error.code() == "NoSuchResourceException" => ask(GET_DEFAULT),
        asked => asked,
    }
}

fn value(answer: &Value) -> ApiResult<u64> {
    let text = |path| answer.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let none = || unclear(format!("Service Quotas tells no value: {}", text("/Quota/ErrorReason/ErrorMessage")));
    let value = answer.pointer("/Quota/Value").and_then(Value::as_f64).ok_or_else(none)?;
    // There are only whole vCPUs. What is below 0 becomes 0.
    Ok(value as u64)
}

/// The vCPUs of the on-demand instances that run or start, of the types that this quota is for.
fn usage(api: &Api<'_>, watch: Watch<'_>, quota: &Quota) -> Result<Usage, Unknown> {
    let call = Call::new("DescribeInstances").filter("instance-state-name", ["pending", "running"]);
    let mut page_instances = PAGE_INSTANCES;
    let mut usage = Usage::default();
    // How many there are of each type whose processors are not told.
    let mut untold: BTreeMap<String, u64> = BTreeMap::new();
    let mut next: Option<String> = None;
    loop {
        if watch.has_passed(ASK_MILLISECONDS) {
            return Ok(usage);
        }
        let page = next.iter().fold(call.clone(), |call, token| call.with("NextToken", token));
        let page = match api.ec2::<Reservations>(&page.with("MaxResults", page_instances)) {
            Err(ApiError::Unanswered(HostError::Limit(_))) if page_instances / 2 >= PAGE_INSTANCES_MIN => {
                page_instances /= 2;
                continue;
            }
            page => page.map_err(Unknown::untold("ec2", "DescribeInstances"))?,
        };
        let (reservations, token) = page.into_parts();
        let instances = reservations.iter().flat_map(|reservation| reservation.instances_set.iter());
        for instance in instances.filter(|instance| is_counted(instance, quota)) {
            usage.instances = usage.instances.saturating_add(1);
            let cpus = &instance.cpu_options;
            match u64::from(cpus.core_count).saturating_mul(cpus.threads_per_core.into()) {
                0 => {
                    let count = untold.entry(instance.instance_type.clone()).or_default();
                    *count = count.saturating_add(1);
                }
                vcpus => usage.vcpus = usage.vcpus.saturating_add(vcpus),
            }
        }
        next = token.filter(|token| !token.is_empty());
        if next.is_none() {
            break;
        }
    }
    let names: Vec<&str> = untold.keys().map(String::as_str).collect();
    for names in names.chunks(TYPES_MAX) {
        if watch.has_passed(ASK_MILLISECONDS) {
            return Ok(usage);
        }
        let types = inventory::types(api, names).map_err(Unknown::untold("ec2", "DescribeInstanceTypes"))?;
        for (name, kind) in types {
            let count = untold.get(&name).copied().unwrap_or_default();
            let vcpus = u64::from(kind.v_cpu_info.count).saturating_mul(count);
            usage.vcpus = usage.vcpus.saturating_add(vcpus);
        }
    }
    Ok(Usage { is_whole: true, ..usage })
}

fn is_counted(instance: &Instance, quota: &Quota) -> bool {
    let is_on_demand = instance.instance_lifecycle.is_empty();
    let is_running = ["pending", "running"].contains(&instance.instance_state.name.as_str());
    let is_on_a_host = instance.placement.tenancy == "host";
    is_on_demand && !is_on_a_host && is_running && Quota::of(&instance.instance_type) == Some(quota)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Answer, Script};

    const QUOTA: &str = "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances (L-1216C47A)";

    fn told(answers: Vec<Answer>) -> (Option<String>, usize) {
        let script = Script::new(answers);
        let watch = Watch::start(&script).expect("a clock");
        let wanted = Wanted { machine: "Orders", instance_type: "t3.large", vcpus: 2 };
        let problem = problem(&Api::new(&script), watch, wanted);
        (problem, script.asked().len())
    }

    fn quota(value: &str) -> Answer {
        Ok(format!(r#"{{"Quota": {{"QuotaCode": "L-1216C47A", "Value": {value}}}}}"#))
    }

    /// A page with these instances, after which others follow or not. What they have is left out: EC2 always tells it.
    fn page(instances: &[&str], is_last: bool) -> Answer {
        let instance = |kind: &&str| {
            format!(
                "<item><instancesSet><item><instanceId>i-0</instanceId><instanceState><name>running</name></instanceState>\
                 <instanceType>{kind}</instanceType></item></instancesSet></item>"
            )
        };
        let all: String = instances.iter().map(instance).collect();
        let next = if is_last { "" } else { "<nextToken>more</nextToken>" };
        Ok(format!(
            "<DescribeInstancesResponse><reservationSet>{all}</reservationSet>{next}</DescribeInstancesResponse>"
        ))
    }

    fn types(types: &[(&str, u32)]) -> Answer {
        let item = |(name, vcpus): &(&str, u32)| {
            format!(
                "<item><instanceType>{name}</instanceType><vCpuInfo><defaultVCpus>{vcpus}</defaultVCpus></vCpuInfo>\
                 <memoryInfo><sizeInMiB>1024</sizeInMiB></memoryInfo></item>"
            )
        };
        let all: String = types.iter().map(item).collect();
        Ok(format!(
            "<DescribeInstanceTypesResponse><instanceTypeSet>{all}</instanceTypeSet></DescribeInstanceTypesResponse>"
        ))
    }

    #[test]
    fn each_family_has_its_quota() {
        for (instance_type, code) in [
            ("t3.large", Some("L-1216C47A")),
            ("i3en.metal", Some("L-1216C47A")),
            ("im4gn.large", Some("L-1216C47A")),
            ("is4gen.large", Some("L-1216C47A")),
            ("inf2.xlarge", Some("L-1945791B")),
            ("g4dn.xlarge", Some("L-DB2E81BA")),
            ("gr6.4xlarge", Some("L-DB2E81BA")),
            ("vt1.3xlarge", Some("L-DB2E81BA")),
            ("p6-b200.48xlarge", Some("L-417A185B")),
            ("f1.2xlarge", Some("L-74FC7D96")),
            ("x2iedn.xlarge", Some("L-7295265B")),
            ("dl2q.24xlarge", Some("L-6E869C2A")),
            ("d3.xlarge", Some("L-1216C47A")),
            ("hpc6a.48xlarge", Some("L-F7808C92")),
            ("h1.2xlarge", Some("L-1216C47A")),
            ("trn1n.32xlarge", Some("L-2C3B7624")),
            ("u-6tb1.metal", Some("L-43DA4232")),
            ("u7in-16tb.224xlarge", Some("L-43DA4232")),
            ("mac1.metal", None),
            ("quux1.large", None),
            ("", None),
        ] {
            assert_eq!(Quota::of(instance_type).map(|quota| quota.code), code, "{instance_type}");
        }
    }

    #[test]
    fn processors_that_are_not_told_are_those_of_the_type() {
        let running = || page(&["t3.large", "m5.4xlarge", "t3.large", "g4dn.xlarge"], true);
        let types = || types(&[("m5.4xlarge", 16), ("t3.large", 2)]);
        assert_eq!(told(vec![quota("22.0"), running(), types()]), (None, 3));
        let (problem, _) = told(vec![quota("21.0"), running(), types()]);
        assert!(problem.as_ref().is_some_and(|text| text.contains("20 of the 21 that")), "{problem:?}");
    }

    #[test]
    fn instances_on_dedicated_hosts_do_not_count() {
        let page = |tenancy: &str| {
            let placement = format!("<placement><tenancy>{tenancy}</tenancy></placement><instanceType>");
            page(&["t3.large"], true).map(|text| text.replace("<instanceType>", &placement))
        };
        assert_eq!(told(vec![quota("2"), page("host")]), (None, 2));
        assert!(told(vec![quota("2"), page("default"), types(&[("t3.large", 2)])]).0.is_some());
    }

    #[test]
    fn a_page_that_is_too_large_for_the_host_is_asked_for_in_parts() {
        let too_large = || Err(HostError::Limit("too large".into()));
        let (problem, asked) = told(vec![
            quota("5"),
            too_large(),
            page(&["t3.large"], false),
            too_large(),
            page(&["t3.large"], true),
            types(&[("t3.large", 2)]),
        ]);
        assert!(problem.as_ref().is_some_and(|text| text.contains("4 of the 5 that")), "{problem:?}");
        assert_eq!(asked, 6);
        // Of pages of five it is not halved any more.
        let (problem, asked) = told(std::iter::once(quota("5")).chain((0..9).map(|_| too_large())).collect());
        assert!(
            problem.as_ref().is_some_and(|text| text.contains("`ec2:DescribeInstances`: too large")),
            "{problem:?}"
        );
        assert_eq!(asked, 6);
    }

    #[test]
    fn what_cannot_be_counted_in_time_is_said() {
        // Each request takes a second.
        let endless =
            |instances: &[&str]| std::iter::repeat_with(|| page(instances, false)).take(40).collect::<Vec<_>>();
        let after = |first: Answer, rest: Vec<Answer>| std::iter::once(first).chain(rest).collect::<Vec<_>>();
        let (problem, asked) = told(after(quota("640.0"), endless(&["t3.large"])));
        let counted = format!(
            "the quota {QUOTA} has room for machine Orders, because not all could be counted in time (15 instances"
        );
        assert!(problem.as_ref().is_some_and(|text| text.contains(&counted)), "{problem:?}");
        assert_eq!(asked, 16);
        // What was counted may be enough to know.
        let told_cpus = page(&["t3.large"], false).map(|text| {
            let cpus = "<cpuOptions><coreCount>1</coreCount><threadsPerCore>2</threadsPerCore></cpuOptions>";
            text.replace("<instanceType>", &format!("{cpus}<instanceType>"))
        });
        let (problem, _) = told(after(quota("31"), vec![told_cpus; 40]));
        assert!(problem.as_ref().is_some_and(|text| text.contains("at least 30 of the 31 that")), "{problem:?}");
    }

    #[test]
    fn what_is_not_told_is_a_sentence() {
        for (answers, part) in [
            (
                vec![Err(HostError::Unreachable("nobody listens".into()))],
                "`servicequotas:GetServiceQuota`: nobody listens",
            ),
            (vec![Ok("{}".into())], "tells no value"),
            (
                vec![Ok(r#"{"Quota": {"ErrorReason": {"ErrorMessage": "EC2 does not answer"}}}"#.into())],
                "tells no value: EC2 does not answer",
            ),
            (vec![Ok("<html>".into())], "cannot be read"),
            (
                vec![quota("5"), Err(HostError::TimedOut("12 s are over".into()))],
                "`ec2:DescribeInstances`: 12 s are over",
            ),
            (
                vec![quota("5"), page(&["t3.large"], true), Err(HostError::Limit("too large".into()))],
                "`ec2:DescribeInstanceTypes`: too large",
            ),
        ] {
            let (problem, _) = told(answers);
            let text = problem.expect(part);
            assert!(text.starts_with("it is not known whether the quota Running") && text.contains(part), "{text}");
        }
    }
}
