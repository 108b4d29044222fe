//! Origins of a query's columns: the table's column that a column of the result is, as Postgres tells its clients.

use pgrx::{PgList, pg_sys};

use crate::query::receiver::Origin;

/// Returns the origins of a plan's columns, in order; empty for a plan without columns.
///
/// # Safety
/// `plan` was prepared by SPI, which is still connected; `planned` is what it plans to run.
pub unsafe fn origins(plan: pg_sys::SPIPlanPtr, planned: &pg_sys::PlannedStmt) -> Vec<Origin> {
    // SAFETY: by the caller's promise; the lists hold what the names of their fields say.
    unsafe {
        let sources = PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan));
        let queries = sources.iter_ptr().flat_map(|source| list::<pg_sys::Query>((*source).query_list));
        let may_be_null = queries.into_iter().any(|query| makes_nulls(query));
        let result = list::<pg_sys::TargetEntry>((*planned.planTree).targetlist);
        let origin = |entry: &*mut pg_sys::TargetEntry| {
            let (table, column) = ((**entry).resorigtbl, (**entry).resorigcol);
            Origin { column: (table != pg_sys::InvalidOid && column > 0).then_some((table, column)), may_be_null }
        };
        result.iter().filter(|entry| !(***entry).resjunk).map(origin).collect()
    }
}

/// Whether a query, or one that it is made of, fills up rows with NULLs: by an outer join, or for sums over sets of groups.
///
/// # Safety
/// `query` is an analyzed query.
unsafe fn makes_nulls(query: *mut pg_sys::Query) -> bool {
    // SAFETY: by the caller's promise; what a table's entry has depends on its kind.
    unsafe {
        pg_sys::check_stack_depth();
        let tables = list::<pg_sys::RangeTblEntry>((*query).rtable);
        let with = list::<pg_sys::CommonTableExpr>((*query).cteList);
        !(*query).groupingSets.is_null()
            || tables.into_iter().any(|table| match (*table).rtekind {
                pg_sys::RTEKind::RTE_JOIN => (*table).jointype != pg_sys::JoinType::JOIN_INNER,
                pg_sys::RTEKind::RTE_SUBQUERY => makes_nulls((*table).subquery),
                _ => false,
            })
            || with.into_iter().any(|with| {
                let inner = (*with).ctequery;
                !pgrx::is_a(inner, pg_sys::NodeTag::T_Query) || makes_nulls(inner.cast())
            })
    }
}

/// # Safety
/// The list holds pointers of that type, or is none.
unsafe fn list<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    // SAFETY: by the caller's promise.
    unsafe { PgList::<T>::from_pg(list) }.iter_ptr().collect()
}
