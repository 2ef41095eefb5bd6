//! From the fields that all generating routes share to requests of the engine.

use crate::api_error::ApiError;
use crate::fields::{Fields, string, wrong};
use crate::observe::random;
use bitnet_inference::{GenerateRequest, Grammar, Prompt, Sampling};
use serde_json::Value;

/// Answers to one prompt, and answers to all prompts of a request.
const MAX_CHOICES: usize = 128;
const MAX_STOPS: usize = 16;

/// How to answer.
#[derive(Debug)]
pub(crate) struct Parameters {
    /// All but the prompt.
    pub(crate) request: GenerateRequest,
    /// Answers per prompt, with seeds that follow one another.
    pub(crate) n: usize,
    /// As server-sent events.
    pub(crate) stream: bool,
    /// Events end with the usage.
    pub(crate) include_usage: bool,
}

impl Parameters {
    /// Takes the fields; `max_tokens` is what holds when none is given.
    pub(crate) fn take(fields: &mut Fields, max_tokens: usize) -> Result<Self, ApiError> {
        let given = fields.size("max_tokens", 1)?;
        let max_tokens = fields.size("max_completion_tokens", 1)?.or(given).unwrap_or(max_tokens);
        let mut request = GenerateRequest::new("", max_tokens);
        request.sampling = sampling(fields)?;
        request.stop = stops(fields, "stop")?;
        request.grammar = form(fields, "response_format")?;
        request.stop_at_eos = !fields.boolean("ignore_eos")?.unwrap_or(false);
        let n = fields.size("n", 1)?.unwrap_or(1);
        if n > MAX_CHOICES {
            return Err(ApiError::invalid("n", format!("n must be at most {MAX_CHOICES}, not {n}")));
        }
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let include_usage = match fields.take("stream_options") {
            Some(_) if !stream => {
                return Err(ApiError::invalid("stream_options", "stream_options needs \"stream\": true"));
            }
            Some(options) => Fields::at("stream_options", options)?.boolean("include_usage")?.unwrap_or(false),
            None => false,
        };
        Ok(Parameters { request, n, stream, include_usage })
    }

    /// One answer.
    pub(crate) fn single(request: GenerateRequest, stream: bool) -> Self {
        Parameters { request, n: 1, stream, include_usage: false }
    }

    /// `n` requests for every prompt.
    pub(crate) fn requests(&self, prompts: Vec<Prompt>, field: &str) -> Result<Vec<GenerateRequest>, ApiError> {
        if prompts.len().saturating_mul(self.n) > MAX_CHOICES {
            let message = format!("{} prompts with n = {}: at most {MAX_CHOICES} answers", prompts.len(), self.n);
            return Err(ApiError::invalid(field, message));
        }
        let numbered = |prompt: Prompt| {
            (0..self.n as u64).map(move |nth| {
                let mut request = GenerateRequest { prompt: prompt.clone(), ..self.request.clone() };
                request.sampling.seed = request.sampling.seed.wrapping_add(nth);
                request
            })
        };
        Ok(prompts.into_iter().flat_map(numbered).collect())
    }
}

pub(crate) fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let mut s = Sampling { seed: seed(fields)?, logit_bias: logit_bias(fields)?, ..Sampling::default() };
    let any = f64::from(f32::MIN)..=f64::from(f32::MAX); // ranges of their own are checked by the sampler
    let numbers = [
        ("temperature", 0.0..=2.0, &mut s.temperature),
        ("top_p", 0.0..=1.0, &mut s.top_p),
        ("min_p", 0.0..=1.0, &mut s.min_p),
        ("typical_p", 0.0..=1.0, &mut s.typical_p),
        ("frequency_penalty", -2.0..=2.0, &mut s.frequency_penalty),
        ("presence_penalty", -2.0..=2.0, &mut s.presence_penalty),
        ("repetition_penalty", any.clone(), &mut s.repetition_penalty),
        ("dry_multiplier", any.clone(), &mut s.dry_multiplier),
        ("dry_base", any, &mut s.dry_base),
        ("xtc_probability", 0.0..=1.0, &mut s.xtc_probability),
        ("xtc_threshold", 0.0..=1.0, &mut s.xtc_threshold),
    ];
    for (name, range, value) in numbers {
        *value = fields.number(name, range)?.unwrap_or(*value);
    }
    if let Some(top_k) = fields.integer("top_k", -1..=i64::from(u32::MAX))? {
        s.top_k = usize::try_from(top_k).unwrap_or(0); // -1 is off, as elsewhere
    }
    s.dry_allowed_length = fields.size("dry_allowed_length", 0)?.unwrap_or(s.dry_allowed_length);
    s.no_repeat_ngram = fields.size("no_repeat_ngram", 0)?.unwrap_or(s.no_repeat_ngram);
    Ok(s)
}

/// Without a seed every answer is another one.
fn seed(fields: &mut Fields) -> Result<u64, ApiError> {
    let Some(value) = fields.take("seed") else { return Ok(random()) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.ok_or_else(|| wrong("seed", "a whole number of 64 bits", &value))
}

/// `{"token id": bias}`, from -100 (hardly ever) to 100.
fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    let entries = match fields.take("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(wrong("logit_bias", "an object of token ids and numbers", &other)),
    };
    let entry = |(id, bias): (String, Value)| {
        let id = id.parse::<u32>();
        let id = id.map_err(|_| ApiError::invalid("logit_bias", "logit_bias: its names must be token ids"))?;
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let wrong = || ApiError::invalid("logit_bias", format!("logit_bias: of token {id} must be from -100 to 100"));
        Ok((id, bias.ok_or_else(wrong)? as f32))
    };
    entries.into_iter().map(entry).collect()
}

/// The form that a field asks for: OpenAI's `text`, `json_object` and `json_schema`, and two of our own: `{"type": "regex",
/// "pattern": ...}` and `{"type": "lark", "grammar": ...}`.
pub(crate) fn form(fields: &mut Fields, name: &str) -> Result<Option<Grammar>, ApiError> {
    let Some(mut format) = fields.object(name)? else { return Ok(None) };
    match format.text("type")?.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(Grammar::json_object())),
        "json_schema" => {
            // chat has it inside of an object with a name, the others have it here
            let mut described = match format.peek("schema").is_null() {
                true => match format.object("json_schema")? {
                    Some(described) => described,
                    None => return Err(wrong(&format.path("json_schema"), "an object with a schema", &Value::Null)),
                },
                false => format,
            };
            match described.required("schema")? {
                schema @ Value::Object(_) => Ok(Some(Grammar::JsonSchema(schema))),
                other => Err(wrong(&described.path("schema"), "an object", &other)),
            }
        }
        "regex" => Ok(Some(Grammar::Regex(format.text("pattern")?))),
        "lark" => Ok(Some(Grammar::Lark(format.text("grammar")?))),
        other => {
            let path = format.path("type");
            let message = format!("{path} must be text, json_object, json_schema, regex or lark, not {other:?}");
            Err(ApiError::invalid(path, message))
        }
    }
}

pub(crate) fn stops(fields: &mut Fields, name: &str) -> Result<Vec<String>, ApiError> {
    let stops = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(stops)) => stops,
        Some(one) => vec![one],
    };
    if stops.len() > MAX_STOPS {
        return Err(ApiError::invalid(name, format!("{name} has {} texts; at most {MAX_STOPS}", stops.len())));
    }
    let stop = |stop: Value| match string(stop, name)? {
        stop if stop.is_empty() => Err(ApiError::invalid(name, format!("{name}: an empty text stops everywhere"))),
        stop => Ok(stop),
    };
    stops.into_iter().map(stop).collect()
}
