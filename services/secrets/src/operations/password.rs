//! GetRandomPassword.

use ferrogate_api::secretsmanager::*;
use ferrogate_api::{ApiError, Context};

use crate::SecretsService;
use crate::errors;
use crate::plan::password::{Alphabet, Wanted};

const LENGTH: std::ops::RangeInclusive<i64> = 1..=4096;
const LENGTH_DEFAULT: i64 = 32;

pub(crate) async fn get(
    _: &SecretsService,
    _: &Context,
    input: GetRandomPasswordRequest,
) -> Result<GetRandomPasswordResponse, ApiError> {
    let length = input.password_length.unwrap_or(LENGTH_DEFAULT);
    if !LENGTH.contains(&length) {
        return Err(errors::invalid_parameter(format!(
            "The password length {length} is not allowed; it must be from {} to {}.",
            LENGTH.start(),
            LENGTH.end()
        )));
    }
    let alphabet = Alphabet::new(&Wanted {
        no_lowercase: input.exclude_lowercase == Some(true),
        no_uppercase: input.exclude_uppercase == Some(true),
        no_numbers: input.exclude_numbers == Some(true),
        no_punctuation: input.exclude_punctuation == Some(true),
        space: input.include_space == Some(true),
        excluded: input.exclude_characters.as_deref().unwrap_or_default(),
    });
    if alphabet.types() == 0 {
        return Err(errors::invalid_parameter(
            "A password can't be generated with the parameters you specified: all characters are excluded.",
        ));
    }
    let each = input.require_each_included_type.unwrap_or(true);
    let length = length as usize;
    if each && length < alphabet.types() {
        return Err(errors::invalid_parameter(
            "The password length is too short based on the required types.",
        ));
    }
    Ok(GetRandomPasswordResponse { random_password: Some(alphabet.password(length, each, below)) })
}

/// A random number below `n`, each as likely as the others.
fn below(n: usize) -> usize {
    let n = n as u64;
    let unfair = u64::MAX - u64::MAX % n;
    loop {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
        let number = u64::from_le_bytes(bytes);
        if number < unfair {
            return (number % n) as usize;
        }
    }
}
