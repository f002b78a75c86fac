//! Interleaving: every contestant is on a node of its own and waits there until it is its turn, so that whatever else the machine
//! does concerns all of them alike.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use cni_tests::Sandbox;
use cni_tests::verdict::Stop;

use crate::contestant::Contestant;

/// The order of `count` contestants in a round: another one is first each time.
pub(crate) fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |offset| (round + offset) % count)
}

/// A contestant's end of its commands (`C`) and of what it answers (`A`).
pub(crate) struct Turns<C, A> {
    commands: Receiver<C>,
    answers: Sender<A>,
}

impl<C, A> Turns<C, A> {
    /// Does each command when its turn comes, until there are no more.
    pub(crate) fn serve(&self, mut turn: impl FnMut(C) -> A) {
        while let Ok(command) = self.commands.recv() {
            if self.answers.send(turn(command)).is_err() {
                return;
            }
        }
    }
}

struct Player<C, A> {
    commands: Sender<C>,
    answers: Receiver<A>,
    thread: JoinHandle<Result<(), Stop>>,
}

/// All contestants.
pub(crate) struct Players<C, A> {
    players: Vec<Player<C, A>>,
}

impl<C: Clone + Send + 'static, A: Send + 'static> Players<C, A> {
    /// Puts each contestant on a node, where `play` prepares it and then serves its turns.
    pub(crate) fn start(
        contestants: &[Contestant],
        play: impl Fn(&Sandbox, &Contestant, &Turns<C, A>) + Copy + Send + 'static,
    ) -> Self {
        let player = |contestant: &Contestant| {
            let contestant = contestant.clone();
            let (commands, incoming) = channel();
            let (outgoing, answers) = channel();
            let turns = Turns { commands: incoming, answers: outgoing };
            let thread = thread::spawn(move || {
                let dir = contestant.dir.as_deref().unwrap_or(Path::new("/")).to_owned();
                Sandbox::run(&dir, move |sandbox| play(sandbox, &contestant, &turns))
            });
            Player { commands, answers, thread }
        };
        Self { players: contestants.iter().map(player).collect() }
    }

    /// `rounds` times a turn of each: the answers of each contestant in order.
    pub(crate) fn rounds(&mut self, rounds: u32, command: &C) -> Vec<Vec<A>> {
        let mut answers: Vec<Vec<A>> = self.players.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds as usize {
            for at in order(round, answers.len()) {
                let player = &self.players[at];
                let answer = player.commands.send(command.clone()).ok().and_then(|()| player.answers.recv().ok());
                match answer {
                    Some(answer) => answers[at].push(answer),
                    None => self.fail(),
                }
            }
        }
        answers
    }

    /// One turn of each.
    pub(crate) fn once(&mut self, command: &C) {
        self.rounds(1, command);
    }

    /// A contestant has ended before its time: says why, and ends the program.
    fn fail(&mut self) -> ! {
        for Player { commands, thread, .. } in self.players.drain(..) {
            drop(commands);
            if let Err(stop) = thread.join().expect("panics are caught") {
                println!("FAILED: {stop:?}");
            }
        }
        std::process::exit(1);
    }
}
