//! The recovery kit: one of the two things that open a vault; the passphrase is the other.
//!
//! It is a file, and a sheet of paper that can be typed in again: its secret is written as 24 words (BIP 39, whose last
//! word holds a checksum). A copy of the slot is in the file, so that losing the slot's object loses nothing.

use std::fmt::Write as _;

use farshore_core::{SecretBytes, SlotId, Timestamp, VaultId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{file, slot::Slot};
use crate::{
    Error, Result,
    seal::VerifyingKey,
    wire::{FORMAT, hex},
};

/// How many words the secret of a kit is.
pub const KIT_WORDS: usize = 24;

/// What a kit's file says it is.
const KIND: &str = "recovery kit";

const COMMENT: &str = "A Farshore recovery kit. Together with the passphrase it opens the vault and has every power over it; each of\n\
    the two is worth nothing without the other. Keep copies away from the vault, from the passphrase and from the\n\
    machines that it protects. `farshore rescue` needs nothing else.";

/// A recovery kit.
#[derive(Debug, Clone)]
pub struct Kit {
    vault: VaultId,
    address: String,
    created_at: Timestamp,
    admin: VerifyingKey,
    slot: SlotId,
    slot_object: Vec<u8>,
    secret: SecretBytes,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    kind: String,
    format: u16,
    vault: VaultId,
    address: String,
    created_at: Timestamp,
    #[serde(with = "crate::wire::hex")]
    admin_key: [u8; 32],
    slot_id: SlotId,
    slot: String,
    secret: String,
}

impl Drop for Text {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Kit {
    pub(crate) fn new(
        address: &str,
        created_at: Timestamp,
        admin: VerifyingKey,
        slot: &Slot,
        slot_object: Vec<u8>,
        secret: SecretBytes,
    ) -> Self {
        let address = address.to_owned();
        Self { vault: slot.vault, address, created_at, admin, slot: slot.id, slot_object, secret }
    }

    /// Reads a kit's file.
    ///
    /// # Errors
    /// [`Error::KeyFile`] when it is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let text: Text = file::decode(KIND, text)?;
        let refused = |problem: &str| Error::KeyFile { what: KIND, problem: problem.to_owned() };
        let secret = hex::decode(&text.secret).ok_or_else(|| refused("its secret is not 64 hexadecimal digits"))?;
        let slot_object = hex::decode_all(&text.slot).ok_or_else(|| refused("its slot is not hexadecimal digits"))?;
        Ok(Self {
            vault: text.vault,
            address: text.address.clone(),
            created_at: text.created_at,
            admin: VerifyingKey::from_bytes(text.admin_key),
            slot: text.slot_id,
            slot_object,
            secret: SecretBytes::new(secret),
        })
    }

    /// The kit's file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let text = Text {
            kind: KIND.to_owned(),
            format: FORMAT,
            vault: self.vault,
            address: self.address.clone(),
            created_at: self.created_at,
            admin_key: *self.admin.as_bytes(),
            slot_id: self.slot,
            slot: hex::encode(&self.slot_object),
            secret: hex::encode(self.secret.expose()),
        };
        file::encode(COMMENT, &text)
    }

    /// The vault that it opens.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// Where the vault was when the kit was made; of a vault with two addresses where its data was.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn admin(&self) -> VerifyingKey {
        self.admin
    }

    /// The slot that it opens.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    pub(crate) fn slot_object(&self) -> &[u8] {
        &self.slot_object
    }

    pub(crate) fn secret(&self) -> &SecretBytes {
        &self.secret
    }

    /// Its secret as words, for a sheet of paper.
    pub fn words(&self) -> Zeroizing<Vec<String>> {
        let mnemonic = bip39::Mnemonic::from_entropy(self.secret.expose()).expect("32 bytes are 24 words");
        Zeroizing::new(mnemonic.words().map(str::to_owned).collect())
    }

    /// The numbers of three words, counted from 1, that its keeper shall type to show that the sheet is there. They follow
    /// from the kit, so that a second try asks for the same.
    pub fn asked_words(&self) -> [usize; 3] {
        let hash = blake3::derive_key("farshore/1/asked-words", self.secret.expose());
        let third = KIT_WORDS / 3;
        let within = |number: usize| number * third + usize::from(hash[number]) % third + 1;
        [within(0), within(1), within(2)]
    }

    /// Whether these are the words that are asked for, in their order; case and spaces around them do not matter.
    pub fn accepts(&self, typed: &[&str]) -> bool {
        let words = self.words();
        let asked = self.asked_words();
        let same = |(number, typed): (&usize, &&str)| {
            words.get(number - 1).is_some_and(|word| word.eq_ignore_ascii_case(typed.trim()))
        };
        typed.len() == asked.len() && asked.iter().zip(typed).all(same)
    }

    /// The kit of a vault at this address, from the words of its sheet and the slot in its store.
    ///
    /// # Errors
    /// [`Error::KeyFile`] when the words are not those of a kit.
    pub(crate) fn from_words(
        words: &str,
        address: &str,
        created_at: Timestamp,
        admin: VerifyingKey,
        slot: &Slot,
        slot_object: Vec<u8>,
    ) -> Result<Self> {
        let refused = |problem: String| Error::KeyFile { what: "sheet of a recovery kit", problem };
        let words = Zeroizing::new(words.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" "));
        if words.split(' ').count() != KIT_WORDS {
            return Err(refused(format!("a kit has {KIT_WORDS} words")));
        }
        let mnemonic = bip39::Mnemonic::parse_in_normalized(bip39::Language::English, &words).map_err(|error| {
            let problem = match error {
                bip39::Error::UnknownWord(index) => format!("word {} is not one of the list", index + 1),
                bip39::Error::InvalidChecksum => "the words do not belong together: one is wrong".to_owned(),
                other => other.to_string(),
            };
            refused(problem)
        })?;
        let entropy = Zeroizing::new(mnemonic.to_entropy());
        let secret = entropy.as_slice().try_into().map_err(|_| refused(format!("a kit has {KIT_WORDS} words")))?;
        Ok(Self::new(address, created_at, admin, slot, slot_object, SecretBytes::new(secret)))
    }

    /// The sheet to print.
    pub fn sheet(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!(
            "FARSHORE RECOVERY KIT\n\n\
             vault    {}\nslot     {}\naddress  {}\nmade     {}\n\n\
             With these words and the passphrase anybody can bring back every machine in the vault; with either alone,\n\
             nobody. Keep this sheet away from the vault and from the passphrase. `farshore vault kit type` makes the\n\
             kit's file of it again.\n\n",
            self.vault, self.slot, self.address, self.created_at
        ));
        for (line, words) in self.words().chunks(4).enumerate() {
            for (column, word) in words.iter().enumerate() {
                // Writing to a String does not fail.
                let _ = write!(text, "{:>4} {word:<12}", line * 4 + column + 1);
            }
            text.push('\n');
        }
        text
    }
}
