// The page of a search, in four parts that are one script: what it knows of the runs; its figures; its table; the run that is
// selected in all of them. Text from records is only ever set as text, or escaped where plotly.js takes markup.
"use strict";

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data"), settings = read("settings"), drawings = read("drawings");
const at = Object.fromEntries(data.columns.map((name, place) => [name, place]));
const runs = new Map(data.rows.map((row, place) => [row[at.run], { row, picture: data.pictures[place], place }]));
const get = (run, name) => runs.get(run).row[at[name]];
const element = (id) => document.getElementById(id);
const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const figures = Object.keys(drawings).map(element).filter((div) => div !== null);
