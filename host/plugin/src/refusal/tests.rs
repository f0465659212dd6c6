use super::*;
use crate::SiteGrants;

fn site() -> SiteName {
    SiteName::new("production").expect("a name")
}

#[test]
fn a_refusal_says_what_would_grant_it() {
    let wanted = Wanted::Unix { path: "/run/x.qmp".to_owned() };
    let refusal = Refusal::not_granted("qemu", &site(), Mode::Protect, wanted, &Grants::default());
    let wanted = "component qemu of site \"production\" wanted to connect to unix:/run/x.qmp in mode protect, which is \
                  not granted. To grant it, add to the \
                  configuration:\n[sites.production.grants.protect]\nunix = [\"/run/x.qmp\"]";
    assert_eq!(refusal.to_string(), wanted);
}

#[test]
fn the_table_that_is_printed_for_an_endpoint_is_one_that_can_be_filled_in() {
    let wanted = Wanted::Endpoint { name: "ec2".to_owned() };
    let refusal = Refusal::not_granted("aws", &site(), Mode::Drill, wanted, &Grants::default());
    let RefusalReason::NotGranted { toml } = refusal.reason else { panic!("not granted") };
    let filled = toml
        .replace("https://...", "https://ec2.eu-west-1.amazonaws.com")
        .replacen("\"...\"", "\"drill\"", 1)
        .replace("\"...\"", "\"ec2\"");
    let table: toml::Table = filled.parse().expect(&filled);
    let grants = table["sites"]["production"]["grants"].clone();
    let grants: SiteGrants = grants.try_into().expect(&filled);
    let endpoint = grants.for_mode(Mode::Drill).endpoints.values().next().expect("one").clone();
    assert_eq!(endpoint.contradiction(), None);
    assert_eq!(endpoint.credential.expect("one").as_str(), "drill");
    assert_eq!(endpoint.service.as_deref(), Some("ec2"));
}

#[test]
fn a_name_that_leads_elsewhere_is_told_with_where() {
    let (host, found) = ("ec2.example.org".to_owned(), "169.254.169.254".to_owned());
    let refusal = Refusal::address_not_allowed("aws", &site(), Mode::Live, "ec2", host, found);
    assert_eq!(
        refusal.to_string(),
        "component aws of site \"production\" wanted to use the endpoint ec2 in mode live, but ec2.example.org leads to \
         169.254.169.254, which this endpoint does not allow. If it is right, add the network to `networks` in \
         [sites.production.grants.live.endpoints.ec2]"
    );
}

#[test]
fn a_refusal_without_a_yes_of_the_manifest_says_that_nothing_grants_it() {
    let wanted = Wanted::Program { template: "start".to_owned() };
    let text = Refusal::not_in_manifest("qemu", &site(), Mode::Drill, wanted).to_string();
    assert!(text.contains("no configuration can grant it"), "{text}");
    assert!(text.ends_with("[wants.drill]\nprograms = [\"start\"]"), "{text}");
    assert!(!text.contains("[sites."), "{text}");
}

/// Each line that a refusal prints is read as configuration, beside the grants that are there, and then grants the thing.
#[test]
fn the_lines_that_are_printed_grant_the_thing_and_keep_the_rest() {
    let granted: Grants = toml::from_str(
        "unix = [\"/a/*\"]\ntcp = [\"h:1\"]\nnbd = [\"unix:/n\"]\nfiles = [{ folder = \"/f\", access = \"read-only\" }]",
    )
    .expect("grants");
    let cases = [
        Wanted::Unix { path: "/run/odd \"name\\".to_owned() },
        Wanted::Tcp { address: "[::1]:80".parse().expect("an address") },
        Wanted::Nbd { address: "tcp:host:10809".parse().expect("an address") },
        Wanted::File { path: "/f/disk".to_owned(), access: Access::ReadWrite },
        Wanted::File { path: "/disk".to_owned(), access: Access::ReadOnly },
    ];
    for wanted in cases {
        let refusal = Refusal::not_granted("qemu", &site(), Mode::Live, wanted.clone(), &granted);
        let RefusalReason::NotGranted { toml } = refusal.reason else { panic!("not granted") };
        #[derive(serde::Deserialize)]
        struct Configuration {
            sites: std::collections::BTreeMap<String, Site>,
        }
        #[derive(serde::Deserialize)]
        struct Site {
            grants: SiteGrants,
        }
        let configuration: Configuration = toml::from_str(&toml).expect(&toml);
        let grants = configuration.sites.get("production").expect("the site").grants.for_mode(Mode::Live).clone();
        match wanted {
            Wanted::Unix { path } => {
                assert!(grants.unix.iter().any(|pattern| pattern.matches(path.as_ref())));
                assert_eq!(grants.unix.first(), granted.unix.first());
            }
            Wanted::Tcp { address } => assert_eq!(grants.tcp, [granted.tcp.clone(), vec![address]].concat()),
            Wanted::Nbd { address } => assert_eq!(grants.nbd, [granted.nbd.clone(), vec![address]].concat()),
            Wanted::File { path, access } => {
                let found = grants.files.iter().filter(|grant| path.starts_with(grant.folder.to_str().expect("text")));
                assert!(found.clone().any(|grant| grant.access >= access), "{toml}");
                assert!(grants.files.iter().any(|grant| grant.folder.ends_with("f")), "{toml}");
            }
            Wanted::Endpoint { .. } | Wanted::Program { .. } => panic!("these are not granted by a line"),
        }
    }
}
