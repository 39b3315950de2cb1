// SQL as tokens, for colours and for knowing what is being typed.

const KEYWORDS =
  "ALL AND ANY AS ASC BETWEEN BY CASE CAST CROSS CURRENT DATE DESC DESCRIBE DISTINCT ELSE END EXCEPT EXISTS EXPLAIN ANALYZE VERBOSE FALSE FETCH FILTER FIRST FOLLOWING FROM FULL GROUP GROUPING HAVING ILIKE IN INNER INTERSECT INTERVAL IS JOIN LAST LATERAL LEFT LIKE LIMIT NATURAL NOT NULL NULLS OF OFFSET ON OR ORDER OUTER OVER PARTITION PRECEDING RANGE RIGHT ROW ROWS SELECT SETS SHOW SIMILAR TABLES THEN TIMESTAMP TO TRUE UNBOUNDED UNION USING VALUES VERSION VIEW VIEWS WHEN WHERE WINDOW WITH WITHIN".split(" ");
const KNOWN = new Set(KEYWORDS);

// One alternative a kind of token; strings and comments may be open at the end.
const TOKEN = /(?<comment>--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))|(?<string>'(?:[^']|'')*(?:'|$))|(?<quoted>"(?:[^"]|"")*(?:"|$))|(?<number>\b\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?\b)|(?<variable>\$\w+)|(?<word>[A-Za-z_][A-Za-z0-9_]*)|(?<space>\s+)|(?<sign>[\s\S])/giy;

/** The tokens of `sql`: `{kind, text, at}`; words that SQL knows are of kind `keyword`. */
export function tokens(sql) {
  const found = [];
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(sql); match; match = TOKEN.exec(sql)) {
    let kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    if (kind === "word" && KNOWN.has(match[0].toUpperCase())) kind = "keyword";
    else if (kind === "word" && /^\s*\(/.test(sql.slice(TOKEN.lastIndex, TOKEN.lastIndex + 4))) kind = "call";
    found.push({ kind, text: match[0], at: match.index });
  }
  return found;
}

export const keywords = KEYWORDS;
