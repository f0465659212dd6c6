use std::ops::Range;

use jiff::{ToSpan, civil, tz::TimeZone};
use proptest::prelude::*;

use super::*;

const ZONES: [&str; 10] = [
    "Europe/Berlin",
    "America/New_York",
    // Half an hour.
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "UTC",
    // Around midnight.
    "America/Havana",
    "America/Sao_Paulo",
    // A whole day left out, in 2011.
    "Pacific/Apia",
    // Twice more a year, for Ramadan.
    "Africa/Casablanca",
    "Europe/Dublin",
];

fn hours(text: &str) -> Hours {
    text.parse().expect(text)
}

fn zone(name: &str) -> Zone {
    name.parse().expect(name)
}

fn time(text: &str) -> Timestamp {
    text.parse().expect(text)
}

/// A timetable of one window, which must change at these instants, in turn.
fn changes(name: &str, window: &str, from: &str, expected: &[(&str, bool)]) {
    let table = Timetable::new(zone(name), vec![(hours(window), ())]);
    let mut now = time(from);
    for (at, holds) in expected {
        now = table.next_change(now).unwrap_or_else(|| panic!("{window} changes after {now}"));
        assert_eq!((now, table.at(now).is_some()), (time(at), *holds), "{window} in {name}");
    }
}

#[test]
fn hours_are_read_and_written() {
    for (text, canonical) in [
        ("08:00-18:00", "08:00-18:00"),
        ("mon-sun 08:00-18:00", "08:00-18:00"),
        ("mon-fri 08:00-18:00", "mon-fri 08:00-18:00"),
        ("sat,sun 00:00-24:00", "sat,sun 00:00-24:00"),
        ("sat-sun 00:00-00:00", "sat,sun 00:00-24:00"),
        ("mon,wed-fri 22:00-06:00", "mon,wed-fri 22:00-06:00"),
        ("fri-mon 22:00-00:00", "fri-mon 22:00-24:00"),
        ("sun,mon,Tue,thu 7:05-07:05", "thu,sun-tue 07:05-07:05"),
        (" thu - thu,  fri  12:00-12:30 ", "thu,fri 12:00-12:30"),
    ] {
        assert_eq!(hours(text).to_string(), canonical, "{text}");
    }
    let text = "\"mon-fri 22:00-06:00\"";
    let read: Hours = serde_json::from_str(text).expect("hours as text");
    assert_eq!(serde_json::to_string(&read).expect("text"), text);
}

#[test]
fn what_are_no_hours_is_refused_with_an_example() {
    for text in [
        "",
        "8",
        "08:00",
        "08:00-",
        "-18:00",
        "08-18",
        "08:00-24:01",
        "08:00-25:00",
        "08:60-09:00",
        "08:0-09:00",
        "+8:00-09:00",
        ":00-09:00",
        "99999:00-09:00",
        "08:00 - 18:00",
        "08:00-18:00-20:00",
        "mon",
        "mon-fri",
        "monday 08:00-18:00",
        ", 08:00-18:00",
        "mon, 08:00-18:00",
        "mon-wed-fri 08:00-18:00",
        "mon fri 08:00-18:00",
    ] {
        let message = text.parse::<Hours>().expect_err(text);
        assert!(message.contains("\"mon-fri 08:00-18:00\""), "{message}");
    }
    let message = "fri 24:00-06:00".parse::<Hours>().expect_err("no such time to begin");
    assert!(message.contains("00:00"), "{message}");
}

#[test]
fn zones_have_names_or_are_the_machines_own() {
    assert_eq!(zone("europe/berlin").to_string(), "Europe/Berlin");
    assert_eq!(zone("local"), Zone::system());
    assert_eq!(zone(&Zone::system().to_string()), Zone::system());
    let read: Zone = serde_json::from_str("\"Asia/Kolkata\"").expect("a zone as text");
    assert_eq!(serde_json::to_string(&read).expect("text"), "\"Asia/Kolkata\"");
    for text in ["", "Berlin", "Europe/Atlantis", "Etc/Unknown", "../../etc/passwd", "+02:00"] {
        let message = text.parse::<Zone>().expect_err(text);
        assert!(message.ends_with("is not a time zone such as \"Europe/Berlin\" or \"UTC\""), "{message}");
    }
}

#[test]
fn a_window_belongs_to_the_day_on_which_it_begins() {
    // 2026-10-02 is a Friday.
    let expected = [("2026-10-02T22:00:00Z", true), ("2026-10-03T06:00:00Z", false), ("2026-10-09T22:00:00Z", true)];
    changes("UTC", "fri 22:00-06:00", "2026-10-01T00:00:00Z", &expected);
    let expected = [("2026-10-02T08:00:00Z", true), ("2026-10-03T08:00:00Z", false), ("2026-10-09T08:00:00Z", true)];
    changes("UTC", "fri 08:00-08:00", "2026-10-01T00:00:00Z", &expected);
    // So it was before 1970: 1960-01-01 was a Friday.
    let expected = [("1960-01-01T22:00:00Z", true), ("1960-01-02T06:00:00Z", false)];
    changes("UTC", "fri 22:00-06:00", "1960-01-01T00:00:00Z", &expected);
    // Windows that touch are one, over the end of the week too.
    let expected = [("2026-10-03T00:00:00Z", true), ("2026-10-06T00:00:00Z", false)];
    changes("UTC", "sat-mon 00:00-24:00", "2026-10-01T00:00:00Z", &expected);
}

#[test]
fn a_window_is_what_wall_clocks_show_when_they_are_put_forward() {
    // In Berlin 02:00 to 03:00 is left out on 2026-03-29.
    let before = "2026-03-28T12:00:00Z";
    let expected = [("2026-03-29T01:00:00Z", true), ("2026-03-29T02:00:00Z", false)];
    changes("Europe/Berlin", "02:30-04:00", before, &expected);
    let expected = [("2026-03-28T22:00:00Z", true), ("2026-03-29T01:00:00Z", false)];
    changes("Europe/Berlin", "23:00-02:30", before, &expected);
    let expected = [("2026-03-30T00:15:00Z", true), ("2026-03-30T00:45:00Z", false)];
    changes("Europe/Berlin", "02:15-02:45", before, &expected);
    let expected = [("2026-04-05T00:15:00Z", true)];
    changes("Europe/Berlin", "sun 02:15-02:45", before, &expected);
}

#[test]
fn a_window_is_what_wall_clocks_show_when_they_are_put_back() {
    // In Berlin 02:00 to 03:00 comes twice on 2026-10-25.
    let before = "2026-10-24T12:00:00Z";
    let expected = [("2026-10-24T22:00:00Z", true), ("2026-10-25T03:00:00Z", false)];
    changes("Europe/Berlin", "00:00-04:00", before, &expected);
    let expected = [
        ("2026-10-25T00:15:00Z", true),
        ("2026-10-25T00:45:00Z", false),
        ("2026-10-25T01:15:00Z", true),
        ("2026-10-25T01:45:00Z", false),
        ("2026-10-26T01:15:00Z", true),
    ];
    changes("Europe/Berlin", "02:15-02:45", before, &expected);
    // The second pass begins inside the window.
    let expected = [
        ("2026-10-24T22:00:00Z", true),
        ("2026-10-25T00:30:00Z", false),
        ("2026-10-25T01:00:00Z", true),
        ("2026-10-25T01:30:00Z", false),
    ];
    changes("Europe/Berlin", "00:00-02:30", before, &expected);
}

#[test]
fn the_first_entry_counts_and_what_never_changes_has_no_change() {
    let entries = |texts: [&str; 2]| texts.into_iter().map(hours).zip(["first", "second"]).collect::<Vec<_>>();
    let table = Timetable::new(Zone::utc(), entries(["10:00-12:00", "08:00-18:00"]));
    for (at, value, change) in [
        ("2026-10-02T07:59:59.999Z", None, "2026-10-02T08:00:00Z"),
        ("2026-10-02T08:00:00Z", Some("second"), "2026-10-02T10:00:00Z"),
        ("2026-10-02T11:59:59.999Z", Some("first"), "2026-10-02T12:00:00Z"),
        ("2026-10-02T12:00:00Z", Some("second"), "2026-10-02T18:00:00Z"),
    ] {
        assert_eq!((table.at(time(at)).copied(), table.next_change(time(at))), (value, Some(time(change))), "{at}");
    }
    let now = time("2026-10-02T08:00:00Z");
    assert_eq!(Timetable::new(zone("Europe/Berlin"), entries(["00:00-24:00", "08:00-18:00"])).next_change(now), None);
    let none = Timetable::<()>::default();
    assert_eq!((none.at(now), none.next_change(now)), (None, None));
}

#[test]
fn the_ends_of_time_are_no_trouble() {
    for name in ZONES {
        let table = Timetable::new(zone(name), vec![(hours("fri 22:00-06:00"), ())]);
        for now in [i64::MIN, i64::MAX].map(Timestamp::from_unix_milliseconds) {
            table.at(now);
            table.next_change(now);
        }
    }
}

/// Whether the window holds, by dates and times of the library.
fn holds_by_dates(window: &Hours, zone: &TimeZone, at_ms: i64) -> bool {
    let wall = zone.to_datetime(jiff::Timestamp::from_millisecond(at_ms).expect("a time"));
    [wall.date(), wall.date().yesterday().expect("a day before")].into_iter().any(|date| {
        let midnight = date.to_datetime(civil::Time::midnight());
        let days = i64::from(window.to <= window.from);
        let [begin, end] = [i64::from(window.from), i64::from(window.to) + days * 24 * 60]
            .map(|minutes| midnight.checked_add(minutes.minutes()).expect("a time"));
        let day = usize::try_from(date.weekday().to_monday_zero_offset()).expect("a day");
        window.days.contains(day) && (begin..end).contains(&wall)
    })
}

fn any_hours() -> impl Strategy<Value = Hours> {
    // Many at the hours at which clocks are changed, and on few days.
    let minute =
        |range: Range<u16>| prop_oneof![range.clone(), (0u16..10).prop_map(|half| half * 30), Just(range.end - 1)];
    let days = prop_oneof![1u8..128, (0u32..7).prop_map(|day| 1 << day), Just(Days::ALL.0)];
    (days, minute(0..1_440), minute(0..1_441)).prop_map(|(days, from, to)| Hours {
        days: Days(days),
        from,
        to: if to == 0 { 1_440 } else { to },
    })
}

/// A zone and a time in it between 1990 and 2040, half of them near a change of its clocks.
fn any_zone_and_time() -> impl Strategy<Value = (&'static str, i64)> {
    let near = -3 * MS_PER_DAY..3 * MS_PER_DAY;
    let close = -3 * 60 * MS_PER_MINUTE..3 * 60 * MS_PER_MINUTE;
    let near = prop_oneof![Just(None), near.prop_map(Some), close.prop_map(Some)];
    (prop::sample::select(&ZONES[..]), 631_152_000_000..2_208_988_800_000_i64, near).prop_map(|(name, at_ms, near)| {
        let change = near.and_then(|near| Some(zone(name).next_offset_change_ms(at_ms)? + near));
        (name, change.unwrap_or(at_ms))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("FARSHORE_LONG").is_some() { 20_000 } else { 256 }))]

    #[test]
    fn hours_survive_their_text(window in any_hours()) {
        prop_assert_eq!(window.to_string().parse(), Ok(window));
    }

    #[test]
    fn nothing_changes_before_the_next_change_and_then_it_does(
        windows in prop::collection::vec(any_hours(), 0..4),
        (name, now_ms) in any_zone_and_time(),
    ) {
        let table = Timetable::new(zone(name), windows.iter().copied().zip(0..).collect());
        let by_dates = TimeZone::get(name).expect(name);
        let expected = |at_ms| windows.iter().position(|window| holds_by_dates(window, &by_dates, at_ms));
        let at = |at_ms| table.at(Timestamp::from_unix_milliseconds(at_ms)).copied();

        let now = at(now_ms);
        prop_assert_eq!(now, expected(now_ms));
        let change = table.next_change(Timestamp::from_unix_milliseconds(now_ms)).map(Timestamp::as_unix_milliseconds);
        let until = change.unwrap_or(now_ms + 9 * MS_PER_DAY);
        prop_assert!(until > now_ms);
        let minutes = (now_ms..until).step_by(usize::try_from(MS_PER_MINUTE).expect("a minute"));
        for at_ms in minutes.chain([until - 1]) {
            prop_assert_eq!(at(at_ms), now, "at {}", Timestamp::from_unix_milliseconds(at_ms));
            // The oracle is slow: it is asked every ten minutes, which is every minute of the hour over all cases.
            if (at_ms - now_ms) / MS_PER_MINUTE % 10 == 0 {
                prop_assert_eq!(expected(at_ms), now, "at {}", Timestamp::from_unix_milliseconds(at_ms));
            }
        }
        if let Some(change) = change {
            prop_assert_ne!(at(change), now);
            prop_assert_eq!(at(change), expected(change));
        }
    }
}
