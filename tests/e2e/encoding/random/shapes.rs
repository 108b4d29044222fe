//! Random geometries, as text for PostGIS to read.

use proptest::prelude::*;

/// In three reference systems, all dimensions and kinds, with every bit of a coordinate used.
pub fn geometry() -> BoxedStrategy<String> {
    // Not -0, which PostGIS's reader of GeoJSON takes for the integer 0.
    let any_number = any::<f64>().prop_filter("a finite number that GeoJSON keeps", |number| number.is_normal());
    let number = prop_oneof![
        10 => (-180.0..180.0).prop_map(|number: f64| number.to_string()),
        5 => any_number.prop_map(|number| format!("{number:e}")),
    ];
    let kinds = prop_oneof![8 => plain_kinds(number.clone().boxed()), 3 => curves(number.boxed()), 1 => nowhere()];
    (prop::sample::select(&["", "SRID=4326;", "SRID=3857;"]), kinds).prop_map(|(srid, text)| format!("'{srid}{text}'")).boxed()
}

/// Kinds that geography has.
pub fn geography() -> BoxedStrategy<String> {
    let number = (-90.0..90.0).prop_map(|number: f64| number.to_string());
    prop_oneof![8 => plain_kinds(number.boxed()), 1 => nowhere()].prop_map(|text| format!("'{text}'")).boxed()
}

fn nowhere() -> BoxedStrategy<String> {
    let texts = ["POINT EMPTY", "LINESTRING EMPTY", "POLYGON EMPTY", "MULTIPOINT EMPTY", "GEOMETRYCOLLECTION EMPTY"];
    prop::sample::select(texts.to_vec()).prop_map(str::to_owned).boxed()
}

/// `made` for each number of dimensions, with what text says of them.
fn of_dimensions(
    number: &BoxedStrategy<String>,
    made: impl Fn(BoxedStrategy<String>, &'static str) -> BoxedStrategy<String>,
) -> BoxedStrategy<String> {
    let position = |count| prop::collection::vec(number.clone(), count).prop_map(|numbers| numbers.join(" ")).boxed();
    prop_oneof![4 => made(position(2), ""), 2 => made(position(3), " Z "), 1 => made(position(3), " M "), 1 => made(position(4), " ZM ")]
        .boxed()
}

fn some(part: BoxedStrategy<String>, count: impl Into<prop::collection::SizeRange>) -> BoxedStrategy<String> {
    prop::collection::vec(part, count).prop_map(|parts| format!("({})", parts.join(","))).boxed()
}

fn ring(position: &BoxedStrategy<String>) -> BoxedStrategy<String> {
    let positions = prop::collection::vec(position.clone(), 3..6);
    positions.prop_map(|positions| format!("({},{})", positions.join(","), positions[0])).boxed()
}

fn plain_kinds(number: BoxedStrategy<String>) -> BoxedStrategy<String> {
    of_dimensions(&number, |position, dimensions| {
        let (point, line) = (some(position.clone(), 1), some(position.clone(), 2..6));
        let polygon = some(ring(&position), 1..3);
        let named = move |name: &'static str, part: BoxedStrategy<String>| {
            part.prop_map(move |part| format!("{name}{dimensions}{part}")).boxed()
        };
        let single = prop_oneof![
            named("POINT", point.clone()),
            named("LINESTRING", line.clone()),
            named("POLYGON", polygon.clone()),
            named("MULTIPOINT", some(point, 1..4)),
            named("MULTILINESTRING", some(line, 1..4)),
            named("MULTIPOLYGON", some(polygon, 1..4)),
        ];
        let nested = single.prop_recursive(3, 8, 3, move |part| named("GEOMETRYCOLLECTION", some(part.boxed(), 1..4)));
        nested.boxed()
    })
}

/// Shapes that GeoJSON has no form for.
fn curves(number: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let no_number = (number.clone(), number.clone()).prop_map(|(x, y)| format!("LINESTRING(NaN {x},{y} NaN)"));
    let curves = of_dimensions(&number, |position, dimensions| {
        let arc = prop::collection::vec(position.clone(), 4).prop_map(move |p| {
            let [a, b, c, d] = [&p[0], &p[1], &p[2], &p[3]];
            let (circular, closed) = (format!("CIRCULARSTRING{dimensions}"), format!("({a},{b},{c},{d},{a})"));
            [
                format!("{circular}({a},{b},{c})"),
                format!("COMPOUNDCURVE{dimensions}(({a},{b}),{circular}({b},{c},{d}))"),
                format!("CURVEPOLYGON{dimensions}({circular}{closed},{closed})"),
                format!("MULTICURVE{dimensions}(({a},{b}),{circular}({b},{c},{d}))"),
                format!("MULTISURFACE{dimensions}(({closed}),CURVEPOLYGON{dimensions}({circular}{closed}))"),
                format!("GEOMETRYCOLLECTION{dimensions}(POINT{dimensions}({a}),{circular}({b},{c},{d}))"),
                format!("TRIANGLE{dimensions}(({a},{b},{c},{a}))"),
                format!("TIN{dimensions}((({a},{b},{c},{a})),(({b},{c},{d},{b})))"),
                format!("POLYHEDRALSURFACE{dimensions}(({closed}))"),
            ]
        });
        (arc, any::<prop::sample::Index>()).prop_map(|(texts, index)| texts[index.index(texts.len())].clone()).boxed()
    });
    prop_oneof![9 => curves, 1 => no_number].boxed()
}
