//! Bounds on what a template may use: a template comes with a model file, from whoever made it.
//!
//! The template engine bounds instructions and nesting itself, but one instruction can double a text. Here every
//! instruction that makes a value is followed by one that pays for the value's size from the render's budget, and
//! the few operations whose result can be much larger than what goes in are paid for beforehand. Instructions that read
//! values through, which a large text makes slow, pay for that from a second budget.

use minijinja::machinery::{self, CodeGenerator, Instruction, Instructions, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, filters};

/// Instructions of the template engine, payments included: a conversation needs some ten thousand.
const FUEL: u64 = 2_000_000;
/// Nesting of loops, macros and conditions.
const RECURSION: usize = 100;
/// Nesting of lists and maps.
const DEPTH: usize = 64;
/// Bytes that all values of one rendering and its output may have together, as text. (A list prints its texts with
/// escapes, which can make five bytes of one.)
const BUDGET: u64 = 32 << 20;
/// Bytes that may be read through in one rendering: a second or two at worst.
const WORK: u64 = 256 << 20;
/// What an element of a list or a map counts beside its content.
const ELEMENT: u64 = 32;

/// Words in one tag, and `elif` in all.
const TAG: usize = 1000;
const ELIFS: usize = 300;

/// Names that no template can spell.
const PAY: &str = "\0pay";
const PAY_TEXT: &str = "\0pay text";
const PAY_READING: &str = "\0pay reading";

/// What a rendering has used so far.
#[derive(Default)]
struct Spent {
    bytes: u64,
    work: u64,
}

/// Puts the bounds on an environment.
pub(super) fn fence(environment: &mut Environment<'_>) {
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.add_function(PAY, |state: &mut State, value: Value| pay(state, cost(&value)?).map(|()| value));
    environment.add_function(PAY_TEXT, |state: &mut State, bytes: u64| pay(state, bytes));
    environment.add_function(PAY_READING, |state: &mut State, operands: Vec<ValueOrKwargs>, operation: &str| {
        let operands: Vec<Value> = operands.into_iter().map(ValueOrKwargs::into_value).collect();
        read(state, reading(operation, &operands)?)?;
        Ok::<Vec<Value>, Error>(operands.into_iter().rev().collect()) // unpacked from the last one on
    });
    environment.set_formatter(|out, state, value| {
        pay(state, cost(value)?)?;
        minijinja::escape_formatter(out, state, value)
    });
    environment.set_unknown_method_callback(|state, value, method, args| {
        let text = value.as_str().unwrap_or_default().len() as u64;
        let receiver = if value.kind() == ValueKind::Map { 0 } else { cost(value)? };
        read(state, receiver.saturating_add(costs(args)?))?;
        pay(
            state,
            match method {
                "replace" => replaced(text, args),
                "join" => args.first().map_or(Ok(0), |list| joined(list, text))?,
                "format" => formatted(value, args)?,
                "split" | "splitlines" => ELEMENT * text, // one piece per byte at most
                _ => 0,
            },
        )?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
    });
    // Jinja2 does not have these, or no chat template needs them.
    for name in ["batch", "chain", "groupby", "lines", "pprint", "slice", "split", "zip"] {
        environment.remove_filter(name);
    }
    environment.add_filter("\0join", filters::join);
    guard(environment, "join", "\0join", |args| {
        let separator = costs(args.get(1..).unwrap_or_default())?;
        args.first().map_or(Ok(0), |list| joined(list, separator))
    });
    environment.add_filter("\0replace", filters::replace);
    guard(environment, "replace", "\0replace", |args| {
        Ok(replaced(text(args).len() as u64, args.get(1..).unwrap_or(&[])))
    });
    environment.add_filter("\0format", filters::format);
    guard(environment, "format", "\0format", |args| {
        args.split_first().map_or(Ok(0), |(format, args)| formatted(format, args))
    });
    environment.add_filter("\0indent", filters::indent);
    guard(environment, "indent", "\0indent", |args| {
        let named = || args.last().and_then(|options| options.get_attr("width").ok()?.as_usize());
        let width = args.get(1).and_then(Value::as_usize).or_else(named).unwrap_or(4) as u64;
        let lines = 1 + text(args).matches('\n').count() as u64;
        Ok(width.saturating_mul(lines).saturating_add(text(args).len() as u64))
    });
    environment.add_filter("\0list", filters::list);
    guard(environment, "list", "\0list", |args| Ok(ELEMENT * text(args).len() as u64));
}

/// Puts a filter under `name` that pays what `cost` says before it runs the one called `hidden`.
fn guard(
    environment: &mut Environment<'_>,
    name: &'static str,
    hidden: &'static str,
    cost: fn(&[Value]) -> Result<u64, Error>,
) {
    environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        pay(state, cost(&args)?)?;
        state.apply_filter(hidden, &args)
    });
}

/// The text that a filter is applied to.
fn text(args: &[Value]) -> &str {
    args.first().and_then(Value::as_str).unwrap_or_default()
}

/// Renders `source` within the bounds of [`fence`].
pub(super) fn render<'s>(environment: &'s Environment<'s>, source: &'s str, root: Value) -> Result<String, Error> {
    let (main, blocks) = compile(source, environment.syntax().clone())?;
    let main = paying(&main, source)?;
    let blocks = blocks.into_iter().map(|(name, code)| Ok((name, paying(&code, source)?)));
    let blocks = blocks.collect::<Result<_, Error>>()?;
    let mut text = String::new();
    let mut out = machinery::make_string_output(&mut text);
    machinery::eval(environment, &main, root, &blocks, &mut out, AutoEscape::None)?;
    drop(out);
    Ok(text)
}

/// Instructions of a template and of its blocks by name.
type Code<'s> = (Instructions<'s>, std::collections::BTreeMap<&'s str, Instructions<'s>>);

/// Compiles a template; also how its syntax is checked.
pub(super) fn compile(source: &str, syntax: SyntaxConfig) -> Result<Code<'_>, Error> {
    // The parser bounds brackets, but not chains: each link is a level of the tree it and the compiler walk.
    let (mut length, mut elifs) = (0, 0);
    for token in machinery::tokenize(source, false, syntax.clone()) {
        match token?.0 {
            Token::VariableStart | Token::BlockStart => length = 0,
            Token::Ident("elif") => elifs += 1,
            _ => length += 1,
        }
        if length > TAG || elifs > ELIFS {
            return Err(exceeded(&format!("{TAG} words in one tag and {ELIFS} elif")));
        }
    }
    let tree = machinery::parse(source, "chat template", syntax)?;
    let mut code = CodeGenerator::new("chat template", source);
    code.compile_stmt(&tree);
    Ok(code.finish())
}

/// The same instructions with payments between them, and jumps led to where their targets now are.
fn paying<'s>(code: &Instructions<'s>, source: &'s str) -> Result<Instructions<'s>, Error> {
    let all: Vec<&Instruction<'s>> = (0..).map_while(|i| code.get(i)).collect();
    let before = |i: usize| i.checked_sub(1).map(|i| all[i]);
    let reads = (0..all.len()).map(|i| reads(all[i], before(i))).collect::<Result<Vec<_>, Error>>()?;
    // Where every old instruction, payment in front included, begins.
    let mut starts = Vec::with_capacity(all.len() + 1);
    let mut next = 0u32;
    for (instruction, reads) in all.iter().zip(&reads) {
        starts.push(next);
        next += 1 + if literal(instruction).is_some() { 3 } else { u32::from(makes_a_value(instruction)) };
        next += if reads.is_some() { 4 } else { 0 };
    }
    starts.push(next);
    let moved = |target: u32| starts.get(target as usize).copied().unwrap_or(next);
    let mut out = Instructions::new("chat template", source);
    for (i, &instruction) in all.iter().enumerate() {
        let mut add = |instruction| match (code.get_span(i as u32), code.get_line(i as u32)) {
            (Some(span), _) => out.add_with_span(instruction, span),
            (None, Some(line)) => out.add_with_line(instruction, line as u16),
            (None, None) => out.add(instruction),
        };
        if let Some(bytes) = literal(instruction) {
            add(Instruction::LoadConst(Value::from(bytes)));
            add(Instruction::CallFunction(PAY_TEXT, Some(1)));
            add(Instruction::DiscardTop);
        }
        if let Some((operation, operands)) = reads[i] {
            add(Instruction::BuildList(Some(operands)));
            add(Instruction::LoadConst(Value::from(operation)));
            add(Instruction::CallFunction(PAY_READING, Some(2)));
            add(Instruction::UnpackList(operands));
        }
        add(match *instruction {
            Instruction::Iterate(target) => Instruction::Iterate(moved(target)),
            Instruction::Jump(target) => Instruction::Jump(moved(target)),
            Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(moved(target)),
            Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(moved(target)),
            Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(moved(target)),
            Instruction::BuildMacro(name, target, flags) => Instruction::BuildMacro(name, moved(target), flags),
            _ => instruction.clone(),
        });
        if makes_a_value(instruction) {
            add(Instruction::CallFunction(PAY, Some(1)));
        }
    }
    Ok(out)
}

/// The length of a literal text, which must be paid for.
fn literal(instruction: &Instruction<'_>) -> Option<usize> {
    if let Instruction::EmitRaw(text) = instruction { Some(text.len()) } else { None }
}

/// Instructions after which the top of the stack is a new value that may be large or deep.
fn makes_a_value(instruction: &Instruction<'_>) -> bool {
    matches!(
        instruction,
        Instruction::Add
            | Instruction::Mul
            | Instruction::StringConcat
            | Instruction::Slice
            | Instruction::BuildList(_)
            | Instruction::BuildTuple(_)
            | Instruction::BuildMap(_)
            | Instruction::EndCapture
            | Instruction::ApplyFilter(..)
            | Instruction::CallFunction(..)
            | Instruction::CallMethod(..)
            | Instruction::CallObject(_)
    )
}

/// For an instruction that may read its operands through: the name of the operation and how many operands it has.
fn reads<'s>(
    instruction: &Instruction<'s>,
    before: Option<&Instruction<'_>>,
) -> Result<Option<(&'s str, usize)>, Error> {
    let counted = |count: Option<u16>| {
        count.map(usize::from).ok_or_else(|| {
            let what = "arguments from a list (`*`) to filters and tests are not supported";
            Error::new(ErrorKind::InvalidOperation, what)
        })
    };
    Ok(Some(match *instruction {
        // an attribute, or a place near the beginning
        Instruction::GetItem
            if let Some(Instruction::LoadConst(key)) = before
                && (key.as_str().is_some() || key.as_usize().is_some_and(|place| place < 100)) =>
        {
            return Ok(None);
        }
        Instruction::GetItem => (TEXTS, 2),
        Instruction::Slice => (TEXTS, 4),
        Instruction::Eq
        | Instruction::Ne
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::In
        | Instruction::CompareAndPreserve(_) => ("compare", 2),
        Instruction::PerformTest(_, count, _) => match counted(count)? {
            1 => (TEXTS, 1),
            operands => ("compare", operands),
        },
        Instruction::ApplyFilter(name, count, _) => (name, counted(count)?),
        _ => return Ok(None),
    }))
}

/// Reads texts, but not what lists and maps hold.
const TEXTS: &str = "texts";

/// Bytes that an operation reads through.
fn reading(operation: &str, operands: &[Value]) -> Result<u64, Error> {
    let times = |list: &Value| list.as_str().map(str::len).or(list.len()).unwrap_or(0) as u64;
    Ok(match (operation, operands) {
        (TEXTS | "default" | "d" | "length" | "count" | "first" | "attr", _) => {
            operands.iter().map(|operand| operand.as_str().unwrap_or_default().len() as u64).sum()
        }
        ("select" | "reject" | "selectattr" | "rejectattr" | "map", [list, rest @ ..]) => {
            cost(list)?.saturating_add(times(list).saturating_mul(costs(rest)?))
        }
        ("sum", [list, ..]) => times(list).saturating_mul(costs(operands)?), // texts grow with each
        _ => costs(operands)?,
    })
}

fn exceeded(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the template exceeds the limit of {what}"))
}

fn pay(state: &mut State, bytes: u64) -> Result<(), Error> {
    let spent = &mut state.get_or_insert_extension(Spent::default()).bytes;
    *spent = spent.saturating_add(bytes);
    if *spent > BUDGET { Err(exceeded(&format!("{BUDGET} bytes of text and lists"))) } else { Ok(()) }
}

fn read(state: &mut State, bytes: u64) -> Result<(), Error> {
    let spent = &mut state.get_or_insert_extension(Spent::default()).work;
    *spent = spent.saturating_add(bytes);
    if *spent > WORK { Err(exceeded(&format!("{WORK} bytes read"))) } else { Ok(()) }
}

fn costs(values: &[Value]) -> Result<u64, Error> {
    values.iter().map(cost).sum()
}

/// The size of a value with everything in it; what is shared counts every time, as it will when it is printed.
fn cost(value: &Value) -> Result<u64, Error> {
    let mut total = 0;
    add_cost(value, 0, &mut total)?;
    Ok(total)
}

fn add_cost(value: &Value, depth: usize, total: &mut u64) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(exceeded(&format!("{DEPTH} lists inside each other")));
    }
    match value.kind() {
        ValueKind::String => *total += value.as_str().unwrap_or_default().len() as u64,
        ValueKind::Number => *total += value.to_string().len() as u64, // 1e308 is written with all its zeros
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            for key in value.try_iter()? {
                *total += ELEMENT;
                if value.kind() == ValueKind::Map {
                    add_cost(&value.get_item(&key)?, depth + 1, total)?;
                }
                add_cost(&key, depth + 1, total)?;
                if *total > BUDGET {
                    return Err(exceeded(&format!("{BUDGET} bytes of text and lists")));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Upper bound on the size of joining `list` with a separator.
fn joined(list: &Value, separator: u64) -> Result<u64, Error> {
    let items = list.as_str().map(|s| s.len() as u64).or(list.len().map(|n| n as u64));
    let items = items.map_or_else(|| list.try_iter().map(|items| items.count() as u64), Ok)?;
    Ok(cost(list)?.saturating_add(items.saturating_mul(separator)))
}

/// Upper bound on the size of replacing in a text of `len` bytes; `args` are what to replace and by what.
fn replaced(len: u64, args: &[Value]) -> u64 {
    let size = |i| args.get(i).and_then(Value::as_str).unwrap_or_default().len() as u64;
    let times = len / size(0).max(1) + 1;
    len.saturating_add(times.saturating_mul(size(1)))
}

/// Upper bound on the size of formatting: every placeholder may show every argument, padded.
fn formatted(format: &Value, args: &[Value]) -> Result<u64, Error> {
    let format = format.as_str().unwrap_or_default();
    let digits = format.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if digits > 3 || format.contains('*') {
        return Err(exceeded("999 columns in a format"));
    }
    let mut shown = 1000;
    for arg in args {
        shown += cost(arg)?;
    }
    let placeholders = format.bytes().filter(|&b| b == b'%' || b == b'{').count() as u64;
    Ok((format.len() as u64).saturating_add(placeholders.saturating_mul(shown)))
}
