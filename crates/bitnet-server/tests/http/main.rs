//! A real listener with the embedded model, asked over sockets by a client that knows nothing of the server's code.

mod answers;
mod client;
mod draft;
mod failures;
mod load;
mod messages;
mod models;
mod openai;
mod responses;
mod tls;
mod tools;
mod web_page;
