//! The query: judged before anything runs, then run straight into a sink.
//!
//! SPI would run `SELECT 1; DROP TABLE t` whole, so the raw parse tree decides first: one statement, and one that only
//! reads. What runs is planned with parallel plans allowed, as the caller, in one snapshot.

mod backpressure;
mod columns;
mod origins;
pub mod receiver;
pub mod sink;

use std::ffi::{CStr, c_int, c_void};

use pgrx::{PgList, PgTupleDesc, pg_sys};
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::request::Statement;

use crate::pg::errors::{QueryErrors, Source};
use crate::pg::{ActAs, Spi, to_server};
use crate::query::receiver::{Origin, Receiver, RowSink};

/// One statement that only reads.
pub struct Query {
    source: Source,
    /// Numbers of the parameters that it names.
    parameters: Vec<i32>,
}

/// The value of a parameter of a query, `$1` and so on.
#[derive(Debug)]
pub struct Parameter {
    /// Its type.
    pub type_oid: pg_sys::Oid,
    /// The value, as the type's input function takes it.
    pub text: String,
}

impl Query {
    /// Judges `text`, of the statement that it may be a part of. Raises a syntax error with its position; other errors: 42601,
    /// 0A000.
    pub fn parse(text: &str, statement: Option<&Statement>) -> Result<Self> {
        let statement = match statement {
            Some(statement) => Some((to_server(&statement.text)?, statement.before)),
            None => None,
        };
        let source = Source::new(to_server(text)?, statement);
        let parameters = judge(&source)?;
        Ok(Query { source, parameters })
    }

    /// Whether the query names the parameter `$number`.
    pub fn uses(&self, number: i32) -> bool {
        self.parameters.contains(&number)
    }

    /// Raises what Postgres raises when it analyzes the query with parameters of these types.
    pub fn analyze(&self, types: &[pg_sys::Oid]) -> Result<()> {
        let _errors = QueryErrors::of(&self.source);
        let _caller = ActAs::caller();
        let _spi = Spi::connect()?;
        // SAFETY: SPI is connected, and frees the plan when it is disconnected.
        unsafe { self.prepare(types) }.map(drop)
    }

    /// Plans the query as the current user and does not run it; gives what the planner expects, and what `look` makes of the shape of
    /// the rows and of the origins of their columns. Raises what Postgres raises before the first row.
    pub fn plan<T>(&self, look: impl FnOnce(&PgTupleDesc<'_>, &[Origin]) -> Result<T>) -> Result<(Expected, T)> {
        let _errors = QueryErrors::of(&self.source);
        let _caller = ActAs::caller();
        let _spi = Spi::connect()?;
        let none = || Error::new(Code::Internal, "the query has no plan");
        // SAFETY: SPI is connected, and frees the plan when it is disconnected. The shape is copied, and its copy is freed with its
        // wrapper.
        let (expected, shape) = unsafe {
            let plan = self.prepare(&[])?;
            let sources = PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan));
            let shape = sources.iter_ptr().next().map(|source| (*source).resultDesc).filter(|shape| !shape.is_null());
            let shape = PgTupleDesc::from_pg_copy(shape.ok_or_else(none)?);
            (expected(plan, Rights::AreChecked).ok_or_else(none)?, shape)
        };
        let looked = look(&shape, &expected.origins)?;
        Ok((expected, looked))
    }

    /// # Safety
    /// SPI is connected, and stays so while the plan is used.
    unsafe fn prepare(&self, types: &[pg_sys::Oid]) -> Result<pg_sys::SPIPlanPtr> {
        let mut types = types.to_vec();
        let options = pg_sys::CURSOR_OPT_PARALLEL_OK as c_int;
        // SAFETY: by the caller's promise; the text is NUL-terminated, and the types are copied.
        let plan = unsafe {
            pg_sys::SPI_prepare_cursor(self.source.query().as_ptr(), types.len() as c_int, types.as_mut_ptr(), options)
        };
        if plan.is_null() { Err(Error::new(Code::Internal, "could not prepare the query")) } else { Ok(plan) }
    }

    /// Plans and runs it, row by row into `sink`, as the current user and nobody else: who dropped his privileges with SET ROLE
    /// before he ran a stranger's query must not find that it has taken them back. Raises what Postgres raises.
    pub fn run(&self, parameters: &[Parameter], sink: &mut impl RowSink) -> Result<()> {
        let _errors = QueryErrors::of(&self.source);
        let _caller = ActAs::caller();
        let _spi = Spi::connect()?;
        let mut receiver = Receiver::new(sink);
        let types: Vec<pg_sys::Oid> = parameters.iter().map(|parameter| parameter.type_oid).collect();
        // SAFETY: the plan, the parameters and the receiver outlive the execution, and SPI frees the plan and the memory of the
        // parameters when it is disconnected.
        let outcome = unsafe {
            let plan = self.prepare(&types)?;
            if let Some(expected) = expected(plan, Rights::AreCheckedLater) {
                receiver.sink().estimate(expected.rows);
                receiver.sink().origins(&expected.origins)?;
            }
            let options = pg_sys::SPIExecuteOptions {
                read_only: true,
                must_return_tuples: true,
                dest: receiver.as_dest(),
                params: parameter_list(parameters)?,
                ..pg_sys::SPIExecuteOptions::default()
            };
            pg_sys::SPI_execute_plan_extended(plan, &options)
        };
        match u32::try_from(outcome) {
            Ok(pg_sys::SPI_OK_SELECT) => Ok(()),
            _ => Err(Error::new(Code::Internal, "could not run the query").detail(format!("SPI answered {outcome}."))),
        }
    }
}

/// What the planner expects of a query.
#[derive(Debug)]
pub struct Expected {
    /// Number of rows.
    pub rows: f64,
    /// Bytes of a row, as Postgres keeps it in memory.
    pub width: i32,
    /// Where the columns come from.
    pub origins: Vec<Origin>,
}

/// When the caller's rights on the query's tables are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    /// With the plan, which is not executed.
    AreChecked,
    /// By the executor, at its start.
    AreCheckedLater,
}

/// What the planner expects of the query. It plans here what is executed next. Raises 42501, if rights are checked.
///
/// # Safety
/// `plan` was prepared by SPI, which is still connected.
unsafe fn expected(plan: pg_sys::SPIPlanPtr, rights: Rights) -> Option<Expected> {
    // SAFETY: by the caller's promise; a plan that was not saved has no owner. Its list holds PlannedStmts.
    unsafe {
        let cached = pg_sys::SPI_plan_get_cached_plan(plan);
        if cached.is_null() {
            return None;
        }
        let statements = PgList::<pg_sys::PlannedStmt>::from_pg((*cached).stmt_list);
        let planned = statements.iter_ptr().next().filter(|statement| !(**statement).planTree.is_null());
        if let (Some(planned), Rights::AreChecked) = (planned, rights) {
            // As the executor does, hooks of other extensions included.
            #[cfg(not(since_pg16))]
            pg_sys::ExecCheckRTPerms((*planned).rtable, true);
            #[cfg(since_pg16)]
            pg_sys::ExecCheckPermissions((*planned).rtable, (*planned).permInfos, true);
        }
        let expected = planned.map(|planned| {
            let tree = &*(*planned).planTree;
            Expected { rows: tree.plan_rows, width: tree.plan_width, origins: origins::origins(plan, &*planned) }
        });
        pg_sys::ReleaseCachedPlan(cached, std::ptr::null_mut());
        expected
    }
}

/// Returns the values for the executor; NULL for none.
fn parameter_list(parameters: &[Parameter]) -> Result<pg_sys::ParamListInfo> {
    if parameters.is_empty() {
        return Ok(std::ptr::null_mut());
    }
    let mut texts = Vec::with_capacity(parameters.len());
    for parameter in parameters {
        texts.push(to_server(&parameter.text)?);
    }
    // SAFETY: the list has room for as many values as were asked for, and is of the current memory context. The input functions
    // copy what they keep of the texts.
    unsafe {
        let list = pg_sys::makeParamList(parameters.len() as c_int);
        let values = (*list).params.as_mut_slice(parameters.len());
        for ((value, parameter), text) in values.iter_mut().zip(parameters).zip(&texts) {
            let (mut input, mut element) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::getTypeInputInfo(parameter.type_oid, &mut input, &mut element);
            value.value = pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), element, -1);
            value.isnull = false;
            value.pflags = pg_sys::PARAM_FLAG_CONST as u16;
            value.ptype = parameter.type_oid;
        }
        Ok(list)
    }
}

/// Gives the numbers of the parameters that the query names.
fn judge(source: &Source) -> Result<Vec<i32>> {
    let _errors = QueryErrors::of(source);
    // SAFETY: the text is NUL-terminated. The list's members are RawStmts, whose `stmt` is a node.
    let statements = unsafe {
        let parsed = pg_sys::raw_parser(source.query().as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        PgList::<pg_sys::RawStmt>::from_pg(parsed)
    };
    let mut statements = statements.iter_ptr();
    let (first, second) = (statements.next(), statements.next());
    match (first, second) {
        (None, _) => Err(Error::new(Code::Syntax, "query is empty")),
        (Some(_), Some(_)) => Err(Error::new(Code::Syntax, "query must be one statement, not several")),
        // SAFETY: a RawStmt of the list above.
        (Some(only), None) => unsafe { judge_statement((*only).stmt) },
    }
}

/// # Safety
/// `statement` is the root of a raw parse tree.
unsafe fn judge_statement(statement: *mut pg_sys::Node) -> Result<Vec<i32>> {
    // SAFETY: by the caller's promise.
    if unsafe { !pgrx::is_a(statement, pg_sys::NodeTag::T_SelectStmt) } {
        // SAFETY: a statement of that tree.
        return Err(refused(&unsafe { command_name(statement) }));
    }
    // A list of what is still to be looked at, and no recursion: Postgres runs expressions that are thousands of nodes deep.
    let (mut nodes, mut parameters) = (vec![statement], Vec::new());
    while let Some(node) = nodes.pop() {
        // SAFETY: a node of that tree.
        if let Some(what) = unsafe { offence(node) } {
            return Err(refused(&what));
        }
        // SAFETY: as above.
        if unsafe { pgrx::is_a(node, pg_sys::NodeTag::T_ParamRef) } {
            // SAFETY: the cast follows the tag.
            parameters.push(unsafe { (*node.cast::<pg_sys::ParamRef>()).number });
        }
        // SAFETY: as above. The walker hands what is right below the node to `gather`, and goes no deeper.
        unsafe { pg_sys::raw_expression_tree_walker(node, Some(gather), std::ptr::from_mut(&mut nodes).cast()) };
    }
    Ok(parameters)
}

fn refused(what: &str) -> Error {
    Error::new(Code::Unsupported, format!("query must only read: {what} cannot be exported"))
        .hint("Write one SELECT, VALUES, TABLE, or WITH … SELECT.")
}

/// The name that the statement's command tag has: `INSERT`, `CREATE TABLE`, …
///
/// # Safety
/// `statement` is a statement of a raw parse tree.
unsafe fn command_name(statement: *mut pg_sys::Node) -> String {
    // SAFETY: by the caller's promise; the name is a static string of Postgres's.
    unsafe { CStr::from_ptr(pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(statement))) }.to_string_lossy().into_owned()
}

/// Returns the name of what this node does other than read.
///
/// # Safety
/// `node` is a node of a raw parse tree.
unsafe fn offence(node: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: by the caller's promise; each cast follows the node's tag.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_SelectStmt => {
                let select = node.cast::<pg_sys::SelectStmt>();
                if !(*select).intoClause.is_null() {
                    Some("SELECT INTO".to_owned())
                } else if !(*select).lockingClause.is_null() {
                    Some("SELECT … FOR UPDATE or FOR SHARE".to_owned())
                } else {
                    None
                }
            }
            pg_sys::NodeTag::T_CommonTableExpr => {
                let inner = (*node.cast::<pg_sys::CommonTableExpr>()).ctequery;
                (!pgrx::is_a(inner, pg_sys::NodeTag::T_SelectStmt)).then(|| format!("{} in WITH", command_name(inner)))
            }
            _ => None,
        }
    }
}

/// Puts a node on the list that `context` is. It raises nothing and calls nothing of Postgres.
///
/// # Safety
/// Only Postgres's walker calls it, with a node of the tree or NULL, and the context that it was given.
unsafe extern "C-unwind" fn gather(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if !node.is_null() {
        // SAFETY: by the caller's promise.
        unsafe { &mut *context.cast::<Vec<*mut pg_sys::Node>>() }.push(node);
    }
    false
}
