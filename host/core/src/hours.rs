//! Hours of the week as wall clocks show them: `mon-fri 08:00-18:00`.
//!
//! A window holds whenever the clock on the wall, in its [`Zone`], shows a minute inside it; nothing else counts. So a
//! window that would begin in the hour that is left out in spring begins when that hour is over, one that lies wholly
//! inside it does not happen that day, and one in the hour that comes twice in autumn happens twice.
//!
//! All arithmetic is on the minute of the week. Of its zone it needs only how far wall clocks are ahead of UTC and when
//! that next changes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::zone::Zone;
use crate::Timestamp;

mod zone;

/// What hours look like, for error messages.
const HOURS_EXAMPLES: &str = "hours such as \"08:00-18:00\", \"mon-fri 08:00-18:00\" or \"sat,sun 00:00-24:00\"";

const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAYS_PER_WEEK: usize = DAY_NAMES.len();
const MINUTES_PER_DAY: u16 = 24 * 60;
const MS_PER_MINUTE: i64 = 60 * 1_000;
const MS_PER_DAY: i64 = MINUTES_PER_DAY as i64 * MS_PER_MINUTE;
/// A clock shows each minute of the week at least once in this time, even one that a change of the clock leaves out
/// once or twice. What has not changed by then does not change.
const LOOK_AHEAD_MS: i64 = 3 * 7 * MS_PER_DAY;

/// A window that recurs on days of the week, with both ends on whole minutes; its first minute belongs to it, its end
/// does not. If the end is at or before the beginning it is on the next day, and the days are those on which the window
/// begins: `fri 22:00-06:00` ends on Saturday. Where both are the same, that is 24 hours.
///
/// The text is `DAYS FROM-TO`: days are `mon` to `sun`, a range of them (`fri-mon` too) or several with commas, and
/// every day if left out; times are `HH:MM`, the end up to `24:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hours {
    days: Days,
    /// Minutes after midnight, below 1440.
    from: u16,
    /// Minutes after midnight, above 0 and up to 1440: midnight is the end of a day here.
    to: u16,
}

impl Hours {
    /// Whether a clock that shows this minute (after midnight) of this day (0 is Monday) is in the window.
    fn contains(self, day: usize, minute: u16) -> bool {
        if self.from < self.to {
            self.days.contains(day) && (self.from..self.to).contains(&minute)
        } else {
            let day_before = (day + DAYS_PER_WEEK - 1) % DAYS_PER_WEEK;
            (minute >= self.from && self.days.contains(day)) || (minute < self.to && self.days.contains(day_before))
        }
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unreadable = || format!("{text:?} are not {HOURS_EXAMPLES}");
        let (days, times) = match text.trim().rsplit_once(char::is_whitespace) {
            Some((days, times)) => (days.parse().map_err(|()| unreadable())?, times),
            None => (Days::ALL, text.trim()),
        };
        let ends = times.split_once('-').and_then(|(from, to)| Some((minute_of_day(from)?, minute_of_day(to)?)));
        match ends {
            Some((from, to)) if from < MINUTES_PER_DAY => {
                Ok(Self { days, from, to: if to == 0 { MINUTES_PER_DAY } else { to } })
            }
            Some(_) => {
                Err(format!("{text:?} begin at the end of a day: write 00:00, and the day after if days are named"))
            }
            None => Err(unreadable()),
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != Days::ALL {
            write!(formatter, "{} ", self.days)?;
        }
        let [from, to] = [self.from, self.to].map(|minute| (minute / 60, minute % 60));
        write!(formatter, "{:02}:{:02}-{:02}:{:02}", from.0, from.1, to.0, to.1)
    }
}

/// Minutes after midnight of `HH:MM`, up to 1440 for `24:00`.
fn minute_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u16>().ok())?;
    let (hour, minute) = (number(hour)?, number(minute).filter(|number| *number < 60 && minute.len() == 2)?);
    hour.checked_mul(60)?.checked_add(minute).filter(|minute| *minute <= MINUTES_PER_DAY)
}

/// Days of the week, at least one. Bit 0 is Monday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Days(u8);

impl Days {
    const ALL: Self = Self((1 << DAYS_PER_WEEK) - 1);

    const fn contains(self, day: usize) -> bool {
        self.0 >> day & 1 == 1
    }
}

impl FromStr for Days {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let day = |name: &str| DAY_NAMES.iter().position(|day| day.eq_ignore_ascii_case(name.trim())).ok_or(());
        let mut days = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            let count = (last + DAYS_PER_WEEK - first) % DAYS_PER_WEEK + 1;
            (first..first + count).for_each(|day| days |= 1 << (day % DAYS_PER_WEEK));
        }
        Ok(Self(days))
    }
}

impl fmt::Display for Days {
    /// Three or more in a row are a range, which may go on past Sunday. Every day is no text at all.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = |day: usize| self.contains(day % DAYS_PER_WEEK);
        let mut parts = Vec::new();
        for first in (0..DAYS_PER_WEEK).filter(|day| held(*day) && !held(day + DAYS_PER_WEEK - 1)) {
            let days = DAY_NAMES.into_iter().cycle().zip(0..).skip(first).take_while(|(_, day)| held(*day));
            let names: Vec<_> = days.map(|(name, _)| name).collect();
            match names.as_slice() {
                [first, _, .., last] => parts.push(format!("{first}-{last}")),
                few => parts.extend(few.iter().map(ToString::to_string)),
            }
        }
        formatter.write_str(&parts.join(","))
    }
}

/// What holds at which hours, in one time zone. Where windows overlap the first of them counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable<T> {
    zone: Zone,
    entries: Vec<(Hours, T)>,
}

impl<T> Timetable<T> {
    /// A timetable by the clocks of this zone.
    pub const fn new(zone: Zone, entries: Vec<(Hours, T)>) -> Self {
        Self { zone, entries }
    }

    /// What holds now: the value of the first entry whose hours these are.
    pub fn at(&self, now: Timestamp) -> Option<&T> {
        self.entries.get(self.position(now.as_unix_milliseconds())?).map(|(_, value)| value)
    }

    /// The earliest later instant at which another entry counts, or none does; until then [`Self::at`] gives the same.
    /// None if that never comes.
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let now_ms = now.as_unix_milliseconds();
        let current = self.position(now_ms);
        let changed = |at_ms: &i64| self.position(*at_ms) != current;
        let ends = self.entries.iter().flat_map(|(hours, _)| [hours.from, hours.to % MINUTES_PER_DAY]);
        let mut minutes: Vec<i64> = ends.map(i64::from).collect();
        minutes.sort_unstable();
        minutes.dedup();

        // From one change of the zone's offset to the next, wall clocks go evenly.
        let last_ms = now_ms.saturating_add(LOOK_AHEAD_MS);
        let mut even_from_ms = now_ms;
        while even_from_ms < last_ms {
            let even_to_ms = self.zone.next_offset_change_ms(even_from_ms).map_or(last_ms, |at_ms| at_ms.min(last_ms));
            let offset_ms = self.zone.offset_ms(even_from_ms);
            let [first_day, last_day] =
                [even_from_ms, even_to_ms].map(|at_ms| (at_ms + offset_ms).div_euclid(MS_PER_DAY));
            let boundaries = (first_day..=last_day)
                .flat_map(|day| minutes.iter().map(move |minute| day * MS_PER_DAY + minute * MS_PER_MINUTE - offset_ms))
                .filter(|at_ms| (even_from_ms..even_to_ms).contains(at_ms));
            if let Some(at_ms) = boundaries.chain([even_to_ms]).find(changed) {
                return Some(Timestamp::from_unix_milliseconds(at_ms));
            }
            even_from_ms = even_to_ms;
        }
        None
    }

    /// The place of the first entry whose hours these are.
    fn position(&self, at_ms: i64) -> Option<usize> {
        let wall_ms = at_ms.saturating_add(self.zone.offset_ms(at_ms));
        // 1970 began on a Thursday.
        let day = usize::try_from((wall_ms.div_euclid(MS_PER_DAY) + 3).rem_euclid(7)).ok()?;
        let minute = u16::try_from(wall_ms.rem_euclid(MS_PER_DAY) / MS_PER_MINUTE).ok()?;
        self.entries.iter().position(|(hours, _)| hours.contains(day, minute))
    }
}

impl<T> Default for Timetable<T> {
    /// Nothing at any hour.
    fn default() -> Self {
        Self::new(Zone::utc(), Vec::new())
    }
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
